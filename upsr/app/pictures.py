"""Pictures of the page: the upload, the region chosen of it, the result."""

from __future__ import annotations

import html
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from upsr.heat import COLOURS, heat
from upsr.images.photo import Frame, Photo
from upsr.images.reading import read_photo
from upsr.images.samples import to_eight_bit
from upsr.pipeline.frames import to_colour, to_frame

SMALLEST_SIDE = 16
_THUMBNAIL = 640


@dataclass(frozen=True)
class Upload:
    """A photo that a visitor uploaded: where it lies, how large it is, a small copy, and what was left out in reading it."""

    path: Path
    width: int
    height: int
    thumbnail: Image.Image
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """A part of a photo, in pixels."""

    left: int
    top: int
    width: int
    height: int


def open_photo(path: Path, max_pixels: int) -> Photo:
    """A photo as the command reads it; of several frames or pages the first, which its notes say.

    Raises:
        UpsrError: it is no photo, or has too many pixels (known from the header, before anything is decoded).
    """
    photo = read_photo(path, "this file", max_pixels=max_pixels)
    count = len(photo.frames)
    if count == 1:
        return photo
    notes = (*photo.notes, f"the first of {count} {'frames' if photo.durations else 'pages'} was taken")
    return replace(photo, frames=photo.frames[:1], durations=(), loop=0, notes=notes)


def shown(frame: Frame) -> Image.Image:
    """A frame in 8-bit RGB, its transparent pixels filled."""
    if frame.dtype == np.uint8 and frame.shape[-1] == 3:
        return Image.fromarray(frame)
    return Image.fromarray(to_frame(to_colour(frame), None, np.empty((1, 1, 3), np.uint8)))


def read_upload(path: Path, max_pixels: int) -> Upload:
    """Look at an uploaded file.

    Raises:
        UpsrError: see :func:`open_photo`.
    """
    photo = open_photo(path, max_pixels)
    thumbnail = shown(photo.frames[0])
    width, height = thumbnail.size
    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return Upload(path, width, height, thumbnail, photo.notes)


def whole(upload: Upload) -> Region:
    """All of a photo."""
    return Region(0, 0, upload.width, upload.height)


def square(width: int, height: int, side: int, x: float, y: float) -> Region:
    """The square of this side around (x, y), given in percent, moved to lie within the photo."""
    side = max(1, min(side, width, height))
    left = min(max(round(width * x / 100 - side / 2), 0), width - side)
    top = min(max(round(height * y / 100 - side / 2), 0), height - side)
    return Region(left, top, side, side)


def with_region(upload: Upload, region: Region) -> Image.Image:
    """The small copy, dimmed outside of the region."""
    factor = upload.thumbnail.width / upload.width
    box = [round(v * factor) for v in (region.left, region.top, region.width, region.height)]
    left, top, right, bottom = box[0], box[1], box[0] + max(box[2], 2), box[1] + max(box[3], 2)
    shown = Image.eval(upload.thumbnail, lambda value: value // 3)
    shown.paste(upload.thumbnail.crop((left, top, right, bottom)), (left, top))
    ImageDraw.Draw(shown).rectangle((left, top, right - 1, bottom - 1), outline="#ffffff", width=2)
    return shown


def crop(photo: Photo, region: Region) -> Photo:
    """The region of the photo, with all that the photo carries."""
    rows = slice(region.top, region.top + region.height)
    columns = slice(region.left, region.left + region.width)
    return replace(photo, frames=tuple(np.ascontiguousarray(frame[rows, columns]) for frame in photo.frames))


def enlarged(photo: Photo, width: int, height: int) -> Photo:
    """A photo at the size of the result, by bicubic interpolation, to be compared with it: of 8 bits."""
    small = to_eight_bit(photo.frames[0])
    image = Image.fromarray(small[..., 0] if small.shape[-1] == 1 else small)
    frame = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
    return replace(photo, frames=(frame,))


def heat_over(photo: Image.Image, amount: Image.Image, opacity: float = 0.6) -> Image.Image:
    """A grey image as colours over a photo."""
    grey = np.asarray(amount.convert("L").resize(photo.size, Image.Resampling.BILINEAR))
    return Image.blend(photo.convert("L").convert("RGB"), Image.fromarray(heat(grey)), opacity)


def heat_legend(low: str, high: str) -> str:
    """The colours of :func:`heat_over` as a line of HTML."""
    gradient = ", ".join(COLOURS)
    bar = f'<span class="upsr-bar" style="background: linear-gradient(90deg, {gradient})"></span>'
    return f'<div class="upsr-legend">{html.escape(low)} {bar} {html.escape(high)}</div>'


def fitted(image: Image.Image, side: int = 1024) -> Image.Image:
    """The image, made smaller where it is larger than the page shows."""
    if max(image.size) <= side:
        return image
    small = image.copy()
    small.thumbnail((side, side))
    return small


def result_name(path: Path, size: str, seed: int | None, suffix: str) -> str:
    """Name of the file with the result for an uploaded photo: ``photo_x4_seed0.png``."""
    return f"{path.stem}_{size}{'' if seed is None else f'_seed{seed}'}{suffix}"


def new_place(folder: Path) -> Path:
    """A new folder for results within ``folder``; its name cannot be guessed."""
    place = folder / "results" / uuid.uuid4().hex
    place.mkdir(parents=True)
    return place
