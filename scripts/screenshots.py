"""Make the pictures in docs/browser.md: a photo from scikit-image goes through the page of `upsr serve`.

Needs the extras app and dev, and Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from skimage import data

from upsr.app.limits import Limits
from upsr.app.models import Model, named
from upsr.app.server import serving
from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write
from upsr.errors import exiting
from upsr.weights import shipped_names

_LARGEST_FILE = 300_000
_WAIT = 300_000
_TABS = {"Before / after": "before_after", "Uncertainty": "uncertainty", "Steps": "steps"}


@exiting
def main() -> None:
    """Make them."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=shipped_names(), help="names or paths (the shipped ones)")
    parser.add_argument("--port", type=int, default=7861, metavar="N", help="port of the page meanwhile (7861)")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (docs/images)")
    given = parser.parse_args()
    from upsr.pipeline.pipeline import UPSRPipeline

    sources = [{"source": name, "method": None, "parts": {}} for name in given.weights]
    models = named([(UPSRPipeline.from_pretrained(**source), source) for source in sources])
    take(models, given.out, given.port)


def take(models: Sequence[Model], folder: Path, port: int) -> None:
    """Take the pictures of a page around these models."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as temporary,
        serving(models, Limits(), port=port) as url,
        sync_playwright() as driver,
    ):
        photo = Path(temporary) / "astronaut.png"
        Image.fromarray(data.astronaut()).reduce(2).save(photo)
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1320, "height": 920})
        page.set_default_timeout(_WAIT)
        page.goto(url)
        _upscale(page, photo)
        for title, name in _TABS.items():
            page.get_by_role("tab", name=title).click()
            _settled(page)
            _save(page.screenshot(), folder / f"browser_{name}.png")
        browser.close()


def _upscale(page: Page, photo: Path) -> None:
    page.set_input_files("#photo input[type=file]", photo)
    page.wait_for_selector("#preview img")
    page.get_by_label("Square crop").check()
    page.get_by_label("number input for Side").fill("160")
    page.keyboard.press("Tab")
    page.locator("#preview img").click(position={"x": 110, "y": 60})
    page.click("#run")
    page.wait_for_selector(".upsr-status.done")


def _settled(page: Page) -> None:
    """All pictures are there, nothing moves any more."""
    page.mouse.move(5, 5)
    page.wait_for_function("[...document.images].every((i) => i.complete)")
    page.wait_for_function("document.getAnimations().every((a) => a.playState != 'running')")
    page.evaluate("window.scrollTo(0, 0)")


def _save(screenshot: bytes, path: Path) -> None:
    """As PNG with as many colours as the size of files in a repository allows."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    for colours, dither in ((256, Image.Dither.FLOYDSTEINBERG), (256, Image.Dither.NONE), (64, Image.Dither.NONE)):
        small = io.BytesIO()
        image.quantize(colours, dither=dither).save(small, format="PNG", optimize=True)
        if len(small.getvalue()) < _LARGEST_FILE:
            break
    with atomic_write(path) as temporary:
        temporary.write_bytes(small.getvalue())
    print(f"{path}: {len(small.getvalue()):,} bytes")


if __name__ == "__main__":
    sys.exit(main())
