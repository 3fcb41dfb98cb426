"""Photos that Pillow decodes: formats of pixels only, which need no other program."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from upsr.data.metadata import (
    orientation_of,
    positive,
    resolution_of,
    upright_size,
)
from upsr.data.photo import Frame, Photo
from upsr.data.refusals import check_size
from upsr.data.samples import to_integers
from upsr.data.vips_decoders import photo_of_frames

_PILLOW_FORMATS = ("BMP", "DIB", "PPM", "ICO", "ICNS", "JPEG2000", "PCX", "PSD", "QOI", "SGI", "TGA", "DDS")
"""Pixels only: Pillow would run other programs for some of the rest."""


def frame_of_pillow(image: Image.Image) -> Frame:
    """(H, W, C) of a Pillow image of any mode, as it is stored.

    Raises:
        UnclearSamplesError: its samples are of a type whose range is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        return to_integers(np.asarray(image))[..., None]
    colours = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    pixels = np.array(image.convert(colours + "A" if image.has_transparency_data else colours))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def is_known_to_pillow(data: bytes) -> bool:
    """Pillow opens it as one of :data:`PILLOW_FORMATS`."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS):
            return True
    except UnidentifiedImageError:
        return False


def read_with_pillow(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a format in ``_PILLOW_FORMATS``."""
    with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as file:
        check_size(name, file.width * file.height, max_pixels)
        kind = file.format or ""
        sizes = len(getattr(file, "info", {}).get("sizes", ()))
        file.load()
        deep = _deep_colours(data, kind)
        frame = frame_of_pillow(file) if deep is None else deep
        notes = []
        if _bits(data, kind) > 8 and frame.dtype == np.uint8:
            notes.append("more than 8 bits are read as 8")
        if sizes > 1:
            notes.append(f"the largest of {sizes} pictures was taken")
        exif, xmp, dpi = file.info.get("exif"), file.info.get("xmp"), file.info.get("dpi")
        return photo_of_frames(
            [frame], kind, orientation_of(exif, xmp), icc=None if file.mode == "CMYK" else file.info.get("icc_profile"),
            exif=exif, xmp=xmp, notes=tuple(notes),
            resolution=resolution_of(exif) or (positive(float(dpi[0]), float(dpi[1])) if dpi else None),
        )  # fmt: skip


def _deep_colours(data: bytes, kind: str) -> NDArray[np.uint16] | None:
    """(H, W, 3) of a PPM with more than 8 bits, of which Pillow keeps 8; ``None`` for any other file."""
    if kind != "PPM" or data[:2] not in (b"P3", b"P6"):
        return None
    words: list[int] = []
    place = 2
    while len(words) < 3:
        while data[place : place + 1].isspace() or data[place : place + 1] == b"#":
            place = data.index(b"\n", place) if data[place : place + 1] == b"#" else place + 1
        end = place
        while data[end : end + 1].isdigit():
            end += 1
        words.append(int(data[place:end]))
        place = end
    width, height, largest = words
    if largest < 256:
        return None
    count = 3 * width * height
    if data[:2] == b"P6":
        samples = np.frombuffer(data, ">u2", count, place + 1)
    else:
        lines = b" ".join(line.partition(b"#")[0] for line in data[place:].splitlines())
        samples = np.array(lines.split()[:count], dtype=np.uint32)
    return np.rint(samples.reshape(height, width, 3) * (65535 / largest)).clip(0, 65535).astype(np.uint16)


def _bits(data: bytes, kind: str) -> int:
    """Of a channel, for formats that Pillow reads with 8 whatever they hold."""
    if kind == "JPEG2000":
        at = data.find(b"\xff\x51")
        return (data[at + 40] & 0x7F) + 1 if 0 <= at < len(data) - 40 else 8
    if kind == "PSD":
        return int.from_bytes(data[22:24], "big")
    return 8 * data[3] if kind == "SGI" else 8


def size_with_pillow(data: bytes) -> tuple[int, int]:
    """(height, width), upright, from the header."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "GIF", "AVIF", *_PILLOW_FORMATS)) as file:
        orientation = orientation_of(file.info.get("exif"), file.info.get("xmp"))
        return upright_size(file.height, file.width, orientation)
