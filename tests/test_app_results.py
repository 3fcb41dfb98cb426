"""What a visitor chooses on the page of ``upsr serve``: models, masks; the files with which the command repeats a result."""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.page import (
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
    zipped,
)
from tests.processes import run_fork
from tests.upscaling import save_pipeline
from upsr.arguments import add_models, models_of
from upsr.choices import DEFAULT_WEIGHTS
from upsr.errors import UpsrError
from upsr.methods.base import Knob
from upsr.pipeline.pipeline import UPSRPipeline


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with a model of the smallest networks, ``least``."""
    folder = tmp_path_factory.mktemp("work")
    save_pipeline(folder / "least")
    return folder


@pytest.fixture(scope="module")
def server(work) -> Iterator[str]:
    with served(UPSRPipeline.from_pretrained(work / "least", device="cpu"), source="least") as (url, _):
        yield url


@pytest.fixture
def page(browser, server):
    with opened(browser, server) as page:
        yield page


@pytest.fixture(scope="module")
def fake_server(fake) -> Iterator[str]:
    other = FakePipeline()
    other.takes_masks, other.draws, other.maps, other.scale = False, False, (), 2
    other.knobs = lambda: {"strength": Knob("of the network", 0, 1, 0.5)}  # type: ignore[method-assign]
    with served(fake, other, fake) as (url, _):
        yield url


@pytest.fixture
def fake_page(browser, fake_server):
    with opened(browser, fake_server) as page:
        yield page


def saved(page, folder: Path) -> list[Path]:
    """The result and the files beside it, downloaded into the folder: the result first."""
    found = []
    links = page.locator("#beside a[download]")
    for number in range(links.count() + 1):
        with page.expect_download() as waiting:
            (links.nth(number - 1) if number else page.locator("#download")).click()
        found.append(folder / waiting.value.suggested_filename)
        waiting.value.save_as(found[-1])
    return found


def repeated(folder: Path, source: Path, settings: Path, *more: str) -> bytes:
    """The result of the command with these settings, in the folder of the model."""
    done = run_fork("-m", "upsr", "upscale", str(source), "-o", "out", "--settings", str(settings), *more, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    (result,) = (folder / "out").iterdir()
    content = result.read_bytes()
    result.unlink()
    return content


def open_mask(page) -> None:
    open_section(page, "#mask")
    wait_for_image(page, "#painting img")


def paint(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A stroke between two points, in shares of the sides."""
    page.locator("#painting canvas").scroll_into_view_if_needed()
    box = page.locator("#painting canvas").bounding_box()
    first, last = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*last, steps=5)
    page.mouse.up()


def upscale_with(page, seed: int, expected: str) -> str:
    """The status, of which the seed says that it is not an earlier one."""
    page.fill("#seed input", str(seed))
    page.press("#seed input", "Tab")
    said = upscale(page, f"seed {seed}")
    assert said.endswith(expected)
    return said


def set_brush(page, size: int) -> None:
    page.locator("#painting [name=size]").evaluate("(e, size) => { e.value = size; }", size)


def test_the_page_s_settings_give_the_command_the_same_bytes(page, work, tmp_path):
    picture = photo(tmp_path / "photo.jpg", 40, 30)
    upload(page, picture)
    wait_for_status(page, "40 x 30 pixels")
    page.get_by_label("number input for Scale").fill("3")
    page.keyboard.press("Tab")
    page.get_by_label("number input for Fidelity").fill("0.25")
    page.keyboard.press("Tab")
    page.fill("#seed input", "5")
    page.press("#seed input", "Tab")
    open_section(page, "#more")
    page.locator("#colour_fix input").click()
    page.get_by_role("option", name="wavelet").click()
    page.get_by_label("Consistent").check()
    upscale(page, "seed 5")
    result, settings = saved(page, tmp_path)
    assert (result.name, settings.name) == ("photo_x3_seed5.png", "photo_x3_seed5.json")
    options = json.loads(settings.read_text())["options"]
    assert options == {
        "weights": "least", "outscale": 3, "seed": 5, "noise": "counter", "steps": options["steps"], "fidelity": 0.25,
        "colour_fix": "wavelet", "consistent": True, "dtype": options["dtype"], "tile": options["tile"], "format": "png",
    }  # fmt: skip
    assert repeated(work, picture, settings) == result.read_bytes()
    assert repeated(work, picture, settings, "--seed", "6") != result.read_bytes()


def test_file_and_size_are_those_of_the_command_too(page, work, tmp_path):
    picture = photo(tmp_path / "photo.png", 60, 40)
    upload(page, picture)
    wait_for_status(page, "60 x 40 pixels")
    open_section(page, "#more")
    type_into(page, {"width": "150", "height": "90", "tile": "32"})
    page.locator("#format input").click()
    page.get_by_role("option", name="JPEG").click()
    page.get_by_label("number input for Quality").fill("70")
    page.keyboard.press("Tab")
    upscale(page, "60 x 40 to 150 x 90 pixels, seed 0")
    result, settings = saved(page, tmp_path)
    assert (result.name, settings.name) == ("photo_w150_h90_seed0.jpg", "photo_w150_h90_seed0.json")
    given = json.loads(settings.read_text())["options"]
    assert {name: given.get(name) for name in ("width", "height", "outscale", "tile", "format", "quality")} == {
        "width": 150, "height": 90, "outscale": None, "tile": 32, "format": "jpg", "quality": 70,
    }  # fmt: skip
    assert repeated(work, picture, settings) == result.read_bytes()


def test_a_painted_mask_is_that_of_the_command_and_outside_of_it_is_the_faithful_estimate(page, work, tmp_path):
    picture = photo(tmp_path / "photo.png", 48, 32)
    upload(page, picture)
    wait_for_status(page, "48 x 32 pixels")
    open_mask(page)
    set_brush(page, 8)
    paint(page, (0.3, 0.3), (0.7, 0.3))
    upscale(page, "within the mask")
    result, settings, mask = saved(page, tmp_path)
    assert mask.name == "photo_x4_seed0_mask.png"
    assert json.loads(settings.read_text())["options"]["mask"] == mask.name
    (work / mask.name).write_bytes(mask.read_bytes())
    assert repeated(work, picture, settings) == result.read_bytes()

    painted = np.asarray(Image.open(mask))
    assert painted.shape == (32, 48)
    assert painted[9, 20] == 255
    assert not painted[20:].any()
    pixels = np.asarray(Image.open(result))
    faithful = np.asarray(Image.open(io.BytesIO(repeated(work, picture, settings, "--steps", "0"))))
    free = np.asarray(Image.open(io.BytesIO(without_mask(work, picture, settings, tmp_path))))
    outside, inside = (np.kron(where, np.ones((4, 4), bool)) for where in (painted == 0, painted == 255))
    assert np.array_equal(pixels[outside], faithful[outside])
    assert np.array_equal(pixels[inside], free[inside])
    assert not np.array_equal(free[inside], faithful[inside])


def without_mask(work: Path, picture: Path, settings: Path, folder: Path) -> bytes:
    content = json.loads(settings.read_text())
    del content["options"]["mask"]
    (folder / "free.json").write_text(json.dumps(content))
    return repeated(work, picture, folder / "free.json")


@pytest.mark.parametrize("kind", ["painting", "file"])
def test_of_a_crop_the_files_beside_it_are_of_the_crop(page, work, tmp_path, kind):
    upload(page, photo(tmp_path / "photo.jpg", 90, 60))
    wait_for_status(page, "90 x 60 pixels")
    page.get_by_label("Square crop").check()
    page.get_by_label("number input for Side").fill("32")
    page.keyboard.press("Tab")
    open_mask(page)
    if kind == "file":
        page.set_input_files("#mask_file input[type=file]", half_white(tmp_path / "half.png", 180, 120))
        page.wait_for_selector("#mask_file [aria-label=Clear]")
    else:
        set_brush(page, 20)
        paint(page, (0.5, 0.5), (0.9, 0.5))
    assert "32 x 32 to 128 x 128" in upscale(page, "within the mask")
    result, settings, mask, crop = saved(page, tmp_path)
    assert crop.name == "photo_crop.png"
    (work / mask.name).write_bytes(mask.read_bytes())
    with Image.open(crop) as image, Image.open(mask) as painted:
        assert image.size == painted.size == (32, 32)
        assert 0 < np.asarray(painted).mean() < 255
    assert repeated(work, crop, settings) == result.read_bytes()


def half_white(path: Path, width: int, height: int) -> Path:
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    Image.fromarray(mask).save(path)
    return path


def test_a_mask_file_is_taken_as_it_is(page, work, tmp_path):
    """Also one of the photo's name, as masks have in the folder that the command takes."""
    picture, mask = photo(tmp_path / "photo.png", 40, 30), tmp_path / "masks/photo.png"
    mask.parent.mkdir()
    colours = np.zeros((60, 80, 3), np.uint8)  # of twice the size, and a mean that 8 bits do not hold
    colours[10:50, 10:40] = (200, 101, 7)
    Image.fromarray(colours).save(mask)
    upload(page, picture)
    wait_for_status(page, "40 x 30 pixels")
    open_mask(page)
    page.set_input_files("#mask_file input[type=file]", mask)
    page.wait_for_selector("#mask_file [aria-label=Clear]")
    upscale(page, "within the mask")
    result, settings, same = saved(page, tmp_path / "saved")
    assert same.name == "photo_x4_seed0_mask.png"
    assert same.read_bytes() == mask.read_bytes()
    (work / same.name).write_bytes(mask.read_bytes())
    assert repeated(work, picture, settings) == result.read_bytes()


def test_several_photos_come_with_their_settings(page, work, tmp_path):
    pictures = [photo(tmp_path / f"{name}.png", 20 + number, 20) for number, name in enumerate("ab")]
    choose_several(page, "#photos", pictures, 2)
    page.click("#run_all")
    wait_for_status(page, "2 of 2 photos done")
    found = zipped(page)
    (tmp_path / "settings.json").write_bytes(found.pop("settings.json"))
    assert sorted(found) == ["a_x4_seed0.png", "b_x4_seed0.png"]
    for picture in pictures:
        assert repeated(work, picture, tmp_path / "settings.json") == found[f"{picture.stem}_x4_seed0.png"]


def test_painting_erasing_and_clearing(fake_page, fake, tmp_path):
    page = fake_page
    open_accordion = page.locator("#mask > button")
    open_accordion.click()
    assert "Drop a photo first" in page.locator("#painting").inner_text()
    assert not page.locator("#painting canvas").is_visible()
    upload(page, photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    wait_for_image(page, "#painting img")
    upscale_with(page, 0, "seed 0.")
    assert fake.mask is None  # nothing is painted

    set_brush(page, 10)
    paint(page, (0.5, 0.5), (0.9, 0.5))
    upscale_with(page, 1, "within the mask.")
    assert fake.mask.shape == (40, 60)
    assert fake.mask[20, 40] == 1
    assert fake.mask[:, :20].max() == 0

    open_accordion.click()  # what is painted stays when the page takes the painting out and puts it back
    open_accordion.click()
    wait_for_image(page, "#painting img")
    page.get_by_label("Erase").check()
    paint(page, (0.75, 0.5), (1.0, 0.5))
    upscale_with(page, 2, "within the mask.")
    assert fake.mask[20, 34] == 1
    assert fake.mask[20, 50] == 0

    page.locator("#painting [name=clear]").click()
    upscale_with(page, 3, "seed 3.")
    assert fake.mask is None


def test_another_photo_has_no_mask_yet(fake_page, fake, tmp_path):
    page = fake_page
    upload(page, photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    open_mask(page)
    paint(page, (0.2, 0.5), (0.8, 0.5))
    upscale(page, "within the mask")
    page.locator("#photo [aria-label=Clear]").click()
    wait_for_status(page, "Drop a photo")
    upload(page, photo(tmp_path / "other.png", 50, 40))
    wait_for_status(page, "50 x 40 pixels")
    upscale(page, "50 x 40 to")
    assert fake.mask is None


def test_keys_paint(fake_page, fake, tmp_path):
    page = fake_page
    upload(page, photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    open_mask(page)
    set_brush(page, 8)
    page.locator("#painting canvas").focus()
    page.keyboard.press("ArrowLeft")  # from the middle, 8 pixels a key
    page.keyboard.down("Space")
    page.keyboard.press("ArrowUp")
    page.keyboard.up("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    upscale(page, "within the mask")
    assert fake.mask[20, 22] == fake.mask[12, 22] == 1
    assert fake.mask[:, 32:].max() == 0


def test_masks_that_cannot_be_used_are_said(fake_page, tmp_path):
    page = fake_page
    upload(page, photo(tmp_path / "photo.png", 60, 40))
    wait_for_status(page, "60 x 40 pixels")
    open_mask(page)
    (tmp_path / "text.png").write_text("no picture")
    for name, said in (
        ("text.png", "the mask: not a readable image"),
        ("other.png", "of other proportions than the photo"),
    ):
        if name == "other.png":
            half_white(tmp_path / name, 40, 40)
        page.set_input_files("#mask_file input[type=file]", tmp_path / name)
        page.wait_for_selector("#mask_file [aria-label=Clear]")
        page.click("#run")
        page.wait_for_function(
            "said => document.querySelector('.upsr-status.error')?.innerText.toLowerCase().includes(said)", arg=said
        )
        if name == "text.png":
            page.locator("#mask_file [aria-label=Clear]").click()
    page.locator("#mask_file [aria-label=Clear]").click()
    page.set_input_files("#mask_file input[type=file]", half_white(tmp_path / "half.png", 60, 40))
    page.wait_for_selector("#mask_file [aria-label=Clear]")
    paint(page, (0.2, 0.5), (0.8, 0.5))
    assert "clear the painting, or take the file away" in upscale(page, "There are a painting and a mask file")


@pytest.mark.parametrize(
    "painted", ["http://example.com/a.png", "data:image/png;base64,AAAA", "data:image/png;base64,!"]
)
def test_what_is_no_painting_is_refused(painted, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.masks import mask_for
    from upsr.app.pictures import read_upload, whole

    given = read_upload(photo(tmp_path / "photo.png", 20, 20), 10**6)
    with pytest.raises(UpsrError, match="the painting"):
        mask_for(painted, None, given, whole(given), tmp_path / "mask.png", 10**6)


def test_a_painting_without_transparency_is_everywhere(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.masks import mask_for
    from upsr.app.pictures import read_upload, whole

    given = read_upload(photo(tmp_path / "photo.png", 20, 20), 10**6)
    address = f"data:image/png;base64,{base64.b64encode(given.path.read_bytes()).decode()}"
    mask = mask_for(address, None, given, whole(given), tmp_path / "mask.png", 10**6)
    assert mask is not None
    assert (mask.weight == 1).all()


def test_a_visitor_chooses_among_the_models(fake_page, tmp_path):
    page = fake_page
    assert page.locator("#model label").all_inner_texts() == ["fake", "fake (2)", "fake (3)"]
    upload(page, photo(tmp_path / "photo.png", 40, 30))
    wait_for_status(page, "40 x 30 pixels")
    assert page.locator("#steps, #seed, #mask").count() == 3
    page.get_by_label("fake (2)", exact=True).check()
    page.wait_for_selector("#strength")
    assert page.locator("#steps, #seed, #mask").count() == 0
    upscale(page, "40 x 30 to 80 x 60 pixels.")
    assert [title.strip() for title in page.get_by_role("tab").all_inner_texts()] == ["Before / after", "Steps"]
    page.get_by_label("fake", exact=True).check()
    page.wait_for_selector("#steps")
    upscale(page, "40 x 30 to 160 x 120 pixels, seed 0")
    assert [title.strip() for title in page.get_by_role("tab").all_inner_texts()] == [
        "Before / after", "Uncertainty", "Steps"
    ]  # fmt: skip


def test_what_is_no_number_is_said(fake_page, tmp_path):
    page = fake_page
    upload(page, photo(tmp_path / "photo.png", 40, 30))
    wait_for_status(page, "40 x 30 pixels")
    type_into(page, {"level": "much"})
    assert upscale(page, "Level") == "Level: much is no number."


def test_paths_of_the_server_are_not_in_the_settings():
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.models import Saving, named
    from upsr.pipeline.settings import Settings

    fake: Any = FakePipeline()
    parts = {"g": "/home/me/g.pth", "vae": "here/vae.pth"}
    source = {"source": "/home/me/upsr.pth", "method": "/home/me/mine.py", "parts": parts}
    (model,) = named([(fake, source)])
    record = model.record(replace(Settings(), tile=None), Saving())
    assert (record["options"]["format"], "quality" in record["options"]) == ("png", False)  # which has none
    assert model.name == record["options"]["weights"] == "upsr.pth"
    assert record["options"]["method"] == "mine.py"
    assert record["options"]["part"] == ["g=g.pth", "vae=here/vae.pth"]
    assert record["weights_sha256"] == {"g": "0123"}


@pytest.mark.parametrize(("words", "models"), [
    ("", [("a", None, {}), ("b", None, {})]),
    ("--method ldm", [(DEFAULT_WEIGHTS, "ldm", {})]),
    ("--weights x", [("x", None, {})]),
    ("--method ldm --weights x", [("x", "ldm", {})]),
    ("--weights x --g g.pth --weights y --method ldm --part unet=u --part vae=v", [
        ("x", None, {"g": "g.pth"}), ("y", "ldm", {"unet": "u", "vae": "v"})]),
])  # fmt: skip
def test_arguments_of_a_model_are_of_the_weights_before_them(words, models):
    parser = argparse.ArgumentParser()
    add_models(parser, "a and b")
    found = models_of(parser.parse_args(words.split()), ["a", "b"])
    assert [(model["source"], model["method"], model["parts"]) for model in found] == models
    with pytest.raises(UpsrError, match="--part: u; give NAME=FILE"):
        models_of(parser.parse_args(["--weights", "x", "--part", "u"]), [])
