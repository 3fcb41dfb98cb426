"""The page of ``upsr serve`` for everybody: no violation that axe-core finds, in light and dark; by keyboard alone."""

from __future__ import annotations

import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.page import (
    PATIENCE,
    FakePipeline,
    choose_several,
    open_section,
    opened,
    photo,
    served,
    type_into,
    upload,
    upscale,
    wait_for_image,
    wait_for_status,
    wait_until_filled,
)
from upsr.methods.base import Knob

AXE = "axe-core@4.14.1"
GRAVE = ("serious", "critical")
MOST_TABS = 80
SETTLED = """async () => {
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    const ending = document.getAnimations().filter((one) => one.effect.getComputedTiming().endTime !== Infinity);
    await Promise.allSettled(ending.map((one) => one.finished));
}"""
"""Waits for colours, which change gradually when the scheme does or something is pressed; not for what turns for ever."""


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> str:
    """The program of axe-core, fetched from npm."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, which fetches axe-core")
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", AXE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"needs a network: npm has not fetched {AXE} ({done.stderr.strip()[-200:]})")
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(fake) -> Iterator[str]:
    other = FakePipeline()
    other.takes_masks, other.draws, other.maps = False, False, ()
    other.knobs = lambda: {"strength": Knob("of the network", 0, 1, 0.5)}  # type: ignore[method-assign]
    with served(fake, other) as (url, _):
        yield url


@pytest.fixture
def page(browser, server, fake):
    fake.slow = fake.failing = False
    with opened(browser, server) as page:
        yield page


def violations(page, axe: str) -> list[str]:
    """The grave ones, each with its element."""
    page.evaluate(SETTLED)
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")["violations"]
    return [f"{v['id']}: {node['html'][:200]}" for v in found if v["impact"] in GRAVE for node in v["nodes"]]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_grave(page, axe, fake, tmp_path, scheme):
    page.emulate_media(color_scheme=scheme)
    page.reload()
    page.wait_for_selector("#run")
    page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=scheme == "dark")
    assert violations(page, axe) == []

    picture = photo(tmp_path / "photo.png", 120, 80)
    upload(page, picture)
    wait_for_status(page, "120 x 80 pixels")
    page.get_by_label("Square crop").check()
    open_section(page, "#mask")
    wait_for_image(page, "#painting img")
    page.locator("#painting canvas").focus()
    open_section(page, "#more")
    choose_several(page, "#photos", [picture], 1)
    page.set_input_files("#mask_file input[type=file]", picture)
    page.wait_for_selector("#mask_file [aria-label=Clear]")
    assert violations(page, axe) == []
    page.locator("#mask_file [aria-label=Clear]").click()

    page.locator("#start input").click()
    page.get_by_role("option", name="noise").wait_for()
    assert violations(page, axe) == []
    page.keyboard.press("Escape")

    fake.slow = True
    page.click("#run")
    assert fake.started.wait(PATIENCE / 1000)
    page.wait_for_selector("#progress .progress-bar, #progress .progress-text")
    assert violations(page, axe) == []
    page.click("#cancel")
    wait_for_status(page, "Cancelled.")
    fake.slow = False
    page.wait_for_selector("#run:enabled")

    upscale(page)
    for tab in ("Before / after", "Uncertainty", "Steps"):
        page.get_by_role("tab", name=tab).click()
        wait_for_image(page, "[role=tabpanel] img")
        assert violations(page, axe) == [], tab
    type_into(page, {"level": "much"})
    upscale(page, "is no number")
    assert violations(page, axe) == []
    assert brightness(page) < 60 if scheme == "dark" else brightness(page) > 200


def brightness(page) -> float:
    """Of the corner of the page, 0 to 255."""
    box = {"x": 0, "y": 0, "width": 10, "height": 10}
    return float(np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("L")).mean())


def tab_to(page, selector: str) -> None:
    """Press Tab until the element has the focus, which is then seen."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
            return
    raise AssertionError(f"{selector}: not reached by Tab")


def choose_by_key(page, selector: str, files: Path | list[Path]) -> None:
    dialogs = []

    def keep(dialog) -> None:
        dialogs.append(dialog)

    page.on("filechooser", keep)
    deadline = time.monotonic() + PATIENCE / 1000
    while not dialogs and time.monotonic() < deadline:
        tab_to(page, selector)
        page.wait_for_timeout(300)  # what has just appeared moves
        # After Enter, headless Chromium does not always report the dialog; a key is lost where a busy page exchanges the element.
        page.keyboard.press("Space")
        for _ in range(50):
            if not dialogs:
                page.wait_for_timeout(100)
    page.remove_listener("filechooser", keep)
    assert dialogs, f"{selector}: Space opens no file dialog"
    dialogs[0].set_files(files)


def test_a_whole_upscaling_by_keyboard(page, fake, tmp_path):
    choose_by_key(page, "#photo button", photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    tab_to(page, "#mask > button")
    page.keyboard.press("Enter")
    wait_for_image(page, "#painting img")
    wait_until_filled(page)
    tab_to(page, "#painting canvas")
    page.keyboard.press("Space")
    tab_to(page, "[aria-label='number input for Steps']")
    page.keyboard.press("ArrowDown")
    tab_to(page, "#run")
    page.keyboard.press("Enter")
    wait_for_status(page, "within the mask")
    assert fake.given.knobs["steps"] == 3
    tab_to(page, "[role=tab][aria-selected=false]")
    page.keyboard.press("Space")
    wait_for_image(page, "#heat img")
    tab_to(page, "#download, #download *")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename == "photo_x4_seed0.png"
    tab_to(page, "#beside a")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename == "photo_x4_seed0.json"


def test_an_upscaling_is_cancelled_by_keyboard(page, fake, tmp_path):
    choose_by_key(page, "#photo button", photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    fake.slow = True
    tab_to(page, "#run")
    page.keyboard.press("Space")
    assert fake.started.wait(PATIENCE / 1000)
    tab_to(page, "#cancel")
    page.keyboard.press("Space")
    wait_for_status(page, "Cancelled.")
    assert fake.ended.is_set()


def test_several_photos_by_keyboard(page, tmp_path):
    tab_to(page, "#several > button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#photos button", state="visible")
    wait_until_filled(page)
    choose_by_key(page, "#photos button", photo(tmp_path / "a.png", 20, 20))
    page.wait_for_function("document.querySelectorAll('#photos tr.file').length === 1")
    choose_by_key(page, "[aria-label='Add photos']", photo(tmp_path / "b.png", 20, 20))
    page.wait_for_function("document.querySelectorAll('#photos tr.file').length === 2")
    tab_to(page, "#run_all")
    page.keyboard.press("Enter")
    wait_for_status(page, "2 of 2 photos done")
