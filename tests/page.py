"""The page of ``upsr serve`` in a browser: a pipeline for it, and what a visitor does."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from upsr.app.limits import Limits
from upsr.images.photo import Photo
from upsr.methods.base import Knob, Seen, TextKnob
from upsr.pipeline.frames import to_colour, to_frame
from upsr.pipeline.settings import Settings

PATIENCE = 60_000
"""Milliseconds after which something that is waited for has failed."""


class FakePipeline:
    """A pipeline that needs no network, and can be slow or fail."""

    scale, draws, takes_masks = 4, True, True
    dtype = torch.float32
    maps: tuple[str, ...] = ("uncertainty", "weight")
    pictures: tuple[str, ...] = ("g(y)", "x_T", "t=4")

    def __init__(self) -> None:
        self.slow = False
        self.failing = False
        self.steps_done = 0
        self.started, self.ended = threading.Event(), threading.Event()

    def knobs(self) -> dict[str, Knob | TextKnob]:
        return {
            "steps": Knob("network calls", 0, 5, 4, whole=True, hint="Fewer: faster."),
            "fidelity": Knob("faithfulness", 0, 1, 0.5),
            "prompt": TextKnob("what it shows", ""),
            "colour": TextKnob("correction", "adain", ("none", "adain", "wavelet")),
            "scale": Knob("upscaling factor, which is the page's", 1, 8, 4, advanced=True),
            "eta": Knob("share of noise", 0, 1, 0.25, advanced=True),
            "start": TextKnob("first state", "photo", ("photo", "noise"), advanced=True),
            "level": Knob("by the scale where it is not set", 1, 3, whole=True),
        }

    def digest(self) -> dict[str, str]:
        return {"g": "0123"}

    def settled(self, settings: Settings) -> Settings:
        return replace(settings, tile=64) if settings.tile == "auto" else settings

    def target_size(self, shape: Sequence[int], settings: Settings) -> tuple[int, int]:
        height, width = (round(side * (settings.outscale or self.scale)) for side in shape)
        if settings.size is not None:
            wide, high = settings.size
            width, height = wide or round(shape[1] * high / shape[0]), high or round(shape[0] * wide / shape[1])
        return height, width

    def upscale(self, photo: Photo, settings: Settings, *, mask=None, progress=None, watch=None) -> Photo:
        self.given, self.mask = settings, mask
        self.steps_done = 0
        self.ended.clear()
        self.started.set()
        steps = 2000 if self.slow else 5
        try:
            for step in range(steps):
                threading.Event().wait(0.02 if self.slow else 0)
                self.steps_done = step + 1
                progress(step + 1, steps)
        finally:
            self.started.clear()
            self.ended.set()
        if self.failing:
            raise RuntimeError("/secret/path/of/the/server")
        (frame,) = photo.frames
        size = self.target_size(frame.shape[:2], settings)
        colour = torch.nn.functional.interpolate(to_colour(frame)[None], size)
        noise = torch.rand(colour.shape, generator=torch.Generator().manual_seed(settings.seed)) / 10
        watch = watch or (lambda seen: None)
        for name in self.maps:
            watch(Seen(name, colour, "map"))
        for name in self.pictures:
            watch(Seen(name, colour))
        return replace(photo, frames=(to_frame((colour + noise)[0], None, frame),))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(*pipes: Any, source: Any = "/models/fake", **limits: int) -> Iterator[tuple[str, Path]]:
    """The address, and the folder of uploads."""
    pytest.importorskip("gradio", reason="needs the extra: pip install 'upsr[app]'")
    from upsr.app.models import named
    from upsr.app.server import serving

    models = named([(pipe, {"source": source, "method": None, "parts": {}}) for pipe in pipes])
    with serving(models, Limits(**{"requests_per_minute": 1000, **limits}), port=free_port()) as url:
        yield url.rstrip("/"), Path(os.environ["GRADIO_TEMP_DIR"])


@contextlib.contextmanager
def opened(browser, url: str) -> Iterator[Any]:
    """The page. It may ask for nothing from elsewhere and have no errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    trouble: list[str] = []
    page.on("request", lambda request: trouble.append(request.url) if is_outside(request.url, url) else None)
    page.on("console", lambda message: trouble.append(message.text) if "Content Security" in message.text else None)
    page.on("response", lambda answer: trouble.append(answer.url) if answer.status == 403 else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#run")
    yield page
    page.close()
    assert trouble == []


def is_outside(address: str, url: str) -> bool:
    return not address.startswith((f"{url}/", "data:", f"blob:{url}/"))


def photo(path: Path, width: int, height: int) -> Path:
    """A smooth picture."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def upload(page, path: Path) -> None:
    page.set_input_files("#photo input[type=file]", path)


def wait_until_filled(page) -> None:
    """Gradio fills a section when it is opened, and for some 60 ms drops what a program, faster than people, enters there."""
    idle = "new Promise((done) => requestIdleCallback(done))"
    page.evaluate(f"async () => {{ await {idle}; await new Promise(requestAnimationFrame); await {idle}; }}")


def open_section(page, section: str) -> None:
    page.click(f"{section} > button")
    wait_until_filled(page)


def type_into(page, fields: dict[str, str]) -> None:
    """Type into fields of text, named by their ids, and see that it stays there."""
    for name, value in fields.items():
        page.fill(f"#{name} textarea, #{name} input", value)
        page.keyboard.press("Tab")
    assert {name: page.locator(f"#{name} textarea, #{name} input").input_value() for name in fields} == fields


def wait_for_status(page, text: str) -> str:
    status = page.locator(".upsr-status")
    try:
        page.wait_for_function("text => document.querySelector('.upsr-status')?.innerText.includes(text)", arg=text)
    except Exception as error:
        raise AssertionError(f"the status is not {text!r} but {status.inner_text()!r}") from error
    return status.inner_text()


def upscale(page, expected: str = "Done in") -> str:
    page.click("#run")
    return wait_for_status(page, expected)


def downloaded(page) -> Image.Image:
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename.startswith("photo_x")  # after the photo
    assert waiting.value.suggested_filename.endswith(".png")
    with Image.open(waiting.value.path()) as image:
        assert image.format == "PNG"
        return image.copy()


def wait_for_image(page, selector: str) -> None:
    page.wait_for_function(
        "s => [...document.querySelectorAll(s)].some((i) => i.complete && i.naturalWidth)", arg=selector
    )


def zipped(page) -> dict[str, bytes]:
    """The files of the ZIP that is downloaded."""
    with page.expect_download() as waiting:
        page.click("#zip")
    assert waiting.value.suggested_filename == "upscaled.zip"
    with zipfile.ZipFile(waiting.value.path()) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def choose_several(page, selector: str, chosen: Path | list[Path], count: int) -> None:
    if not page.locator(selector).is_visible():
        open_section(page, "#several")
    page.set_input_files(f"{selector} input[type=file]", chosen)
    page.wait_for_function("n => document.querySelectorAll('#photos tr.file').length === n", arg=count)
