"""Formats that Pillow reads and libvips does not, and frames of Pillow images."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from upsr.images.kinds import check_size
from upsr.images.metadata import orientation_of, positive, resolution_of, upright_size
from upsr.images.photo import Frame, Photo, upright_photo
from upsr.images.samples import to_integers

_FORMATS = ("BMP", "DIB", "PPM", "ICO", "ICNS", "JPEG2000", "PCX", "PSD", "QOI", "SGI", "TGA", "DDS")
"""Formats of pixels only: for some others Pillow would run other programs."""

_SIZED = ("JPEG", "WEBP", "GIF", "AVIF", *_FORMATS)
_COLOUR_PPM = re.compile(rb"P([36])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s")


def frame_of(image: Image.Image) -> Frame:
    """(H, W, C) of a Pillow image of any mode, as it is stored.

    Raises:
        UnclearSamplesError: see :func:`upsr.images.samples.to_integers`.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        return to_integers(np.asarray(image))[..., None]
    colours = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return _array(image.convert(colours + "A" if image.has_transparency_data else colours))


def frames_of(
    file: Image.Image, numbers: Iterable[int], mode: str | None = None
) -> tuple[list[Frame], tuple[int, ...]]:
    """Frames of an animation, and their durations in milliseconds.

    Args:
        mode: that all are converted to; by default each frame decides.
    """
    frames, durations = [], []
    for number in numbers:
        file.seek(number)
        file.load()
        frames.append(_array(file.convert(mode)) if mode else frame_of(file))
        durations.append(round(file.info.get("duration", 100)))
    return frames, tuple(durations)


def knows(data: bytes) -> bool:
    """True for a format that :func:`read` reads."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS):
            return True
    except UnidentifiedImageError:
        return False


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a format without a reader of its own; of several sizes the largest."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
        check_size(name, file.width * file.height, max_pixels)
        kind = file.format or ""
        sizes = len(getattr(file, "info", {}).get("sizes", ()))
        file.load()
        deep = _deep_colours(data) if kind == "PPM" else None
        frame = frame_of(file) if deep is None else deep
        notes = []
        if _bits(data, kind) > 8 and frame.dtype == np.uint8:
            notes.append("more than 8 bits are read as 8")
        if sizes > 1:
            notes.append(f"the largest of {sizes} pictures was taken")
        exif, xmp, dpi = file.info.get("exif"), file.info.get("xmp"), file.info.get("dpi")
        return upright_photo(
            [frame], kind, orientation_of(exif, xmp), icc=None if file.mode == "CMYK" else file.info.get("icc_profile"),
            exif=exif, xmp=xmp, notes=tuple(notes),
            resolution=resolution_of(exif) or (positive(float(dpi[0]), float(dpi[1])) if dpi else None),
        )  # fmt: skip


def size(data: bytes) -> tuple[int, int]:
    """(height, width) from the header, upright."""
    with Image.open(io.BytesIO(data), formats=_SIZED) as file:
        return upright_size(file.height, file.width, orientation_of(file.info.get("exif"), file.info.get("xmp")))


def _array(image: Image.Image) -> NDArray[Any]:
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _deep_colours(data: bytes) -> NDArray[np.uint16] | None:
    """(H, W, 3) of a colour PPM with more than 8 bits, of which Pillow keeps 8; ``None`` for any other."""
    head = _COLOUR_PPM.match(data)
    if head is None or int(head[4]) < 256:
        return None
    width, height, largest = (int(number) for number in head.groups()[1:])
    count = 3 * width * height
    if head[1] == b"6":
        samples = np.frombuffer(data, ">u2", count, head.end())
    else:
        lines = b" ".join(line.partition(b"#")[0] for line in data[head.end() :].splitlines())
        samples = np.array(lines.split()[:count], dtype=np.uint32)
    return np.rint(samples.reshape(height, width, 3) * (65535 / largest)).clip(0, 65535).astype(np.uint16)


def _bits(data: bytes, kind: str) -> int:
    """Bits of a channel in formats that Pillow always reads with 8."""
    if kind == "JPEG2000":
        at = data.find(b"\xff\x51")
        return (data[at + 40] & 0x7F) + 1 if 0 <= at < len(data) - 40 else 8
    if kind == "PSD":
        return int.from_bytes(data[22:24], "big")
    return 8 * data[3] if kind == "SGI" else 8
