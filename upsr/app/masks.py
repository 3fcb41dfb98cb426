"""Masks on the page: painted over the photo, or a file."""

from __future__ import annotations

import base64
import binascii
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image
from torch import Tensor

from upsr.app.pictures import Region, Upload
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.images.reading import read_photo
from upsr.images.writing import write_photo
from upsr.pipeline.frames import alpha_of
from upsr.pipeline.masks import check_fits, mask_of

_PREFIX = "data:image/png;base64,"
_HTML = """
<div class="upsr-canvas" hidden>
  <img alt="">
  <canvas tabindex="0" role="application" aria-label="Painting: arrow keys move the brush, Space paints"></canvas>
  <span class="upsr-brush" hidden></span>
</div>
<p class="upsr-empty">Drop a photo first.</p>
<div class="upsr-tools">
  <label>Brush <input type="range" name="size" min="4" max="160" value="40"></label>
  <label><input type="checkbox" name="erase"> Erase</label>
  <button type="button" name="clear">Clear</button>
</div>
"""


@dataclass(frozen=True)
class Mask:
    """A mask, and a file of it.

    Attributes:
        weight: (h, w) in [0, 1], see :mod:`upsr.pipeline.masks`.
        path: what ``upsr upscale --mask`` takes for the same result.
    """

    weight: Tensor
    path: Path


def painting() -> gr.HTML:
    """A canvas over a photo, for a mouse, a pen, fingers or keys.

    Its value is the painting as the address ``data:...`` of a PNG that is transparent where nothing is painted, or "". Gradio's
    ImageEditor sends three pictures to the server at each event of the page, 40 in one upscaling, painted or not.
    """
    script = (Path(__file__).parent / "painting.js").read_text(encoding="utf-8")
    return gr.HTML("", html_template=_HTML, js_on_load=script, elem_id="painting", photo="")


def photo_to_paint(upload: Upload | None) -> gr.HTML:
    """The update of a painting for another photo: nothing is painted."""
    if upload is None:
        return gr.HTML("", photo="")
    small = io.BytesIO()
    upload.thumbnail.save(small, "JPEG", quality=85)
    return gr.HTML("", photo=f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}")


def mask_for(
    painted: str | None, file: Path | None, upload: Upload, region: Region, target: Path, max_pixels: int
) -> Mask | None:
    """The mask of a region of a photo; ``None`` where nothing is painted and there is no file.

    Args:
        painted: the value of :func:`painting`.
        file: a mask of the whole photo, of its proportions.
        target: a PNG that the region's mask is written to; ``file``, where it is the region's, is copied beside it under this
            name and its own ending, as photo and mask may have the same name.

    Raises:
        UpsrError: both are given, one cannot be read, or the file has other proportions than the photo.
    """
    alpha = _painted(painted, max_pixels)
    if file is None:
        return None if alpha is None else _of_region(alpha, upload, region, target)
    if alpha is not None:
        raise UpsrError("there are a painting and a mask file: clear the painting, or take the file away")
    weight = mask_of(read_photo(file, "the mask", max_pixels=max_pixels))
    check_fits(weight, (upload.height, upload.width))
    if (region.width, region.height) == (upload.width, upload.height):
        return Mask(weight, Path(shutil.copyfile(file, target.with_suffix(file.suffix))))
    return _of_region((weight.numpy() * 255).round().astype(np.uint8), upload, region, target)


def _painted(painted: str | None, max_pixels: int) -> np.ndarray | None:
    """The opacity of a painting, (h, w) uint8; ``None`` where nothing is painted."""
    if not painted:
        return None
    try:
        data = base64.b64decode(painted.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise UpsrError("the painting did not arrive; clear it and paint again") from None
    frame = read_photo(data, "the painting", max_pixels=max_pixels).frames[0]
    alpha = alpha_of(frame)
    grey = (
        np.full(frame.shape[:2], 255, np.uint8) if alpha is None else (alpha[0].numpy() * 255).round().astype(np.uint8)
    )
    return grey if grey.any() else None


def _of_region(grey: np.ndarray, upload: Upload, region: Region, target: Path) -> Mask:
    """The region of a mask of any size, written to ``target`` and read from it."""
    whole = Image.fromarray(grey).resize((upload.width, upload.height), Image.Resampling.BILINEAR)
    box = (region.left, region.top, region.left + region.width, region.top + region.height)
    frame = np.asarray(whole.crop(box))[..., None]
    write_photo(target, Photo((frame,), "PNG"))
    return Mask(mask_of(read_photo(target, "the mask", max_pixels=frame.size)), target)
