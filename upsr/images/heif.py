"""AVIF and HEIC, the two contents of a HEIF container. HEIC needs an extra."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from upsr.images.kinds import check_size, extra
from upsr.images.metadata import orientation_of
from upsr.images.photo import Frame, Photo, upright_photo
from upsr.images.pillow import frames_of
from upsr.images.pillow import size as pillow_size
from upsr.images.samples import to_integers, widened
from upsr.images.vips import field, opened, pixels, profile

_BOXES = 1 << 14
"""Bytes from the start of a container that hold its colour boxes."""

_SRGB_PRIMARIES, _SRGB_TRANSFER = (1, 2), (1, 2, 6, 13, 14, 15)
"""Code points of ITU-T H.273 for sRGB, or for unspecified."""


def read_avif(data: bytes, name: str, max_pixels: int) -> Photo:
    """An AVIF with all frames of a sequence; of several pictures the first."""
    if b"avis" in data[8:64] and (sequence := _read_sequence(data, name, max_pixels)):
        return sequence
    image = opened(data, "heif", name, max_pixels)
    frame = pixels(image, name)
    if frame.dtype == np.uint16:
        frame = widened(frame, field(image, "heif-bitdepth", 16))
    pictures = field(image, "n-pages", 1)
    return upright_photo(  # libvips applies the container's orientation
        [frame], "AVIF", icc=profile(image), exif=field(image, "exif-data"), xmp=field(image, "xmp-data"),
        colour=_colour_of(data) if profile(image) is None else (), notes=_first_of(pictures),
    )  # fmt: skip


def _read_sequence(data: bytes, name: str, max_pixels: int) -> Photo | None:
    """All frames, by Pillow: libvips reads the first only. ``None`` for a single frame."""
    with Image.open(io.BytesIO(data), formats=["AVIF"]) as file:
        count = getattr(file, "n_frames", 1)
        if count < 2:
            return None
        check_size(name, file.width * file.height * count, max_pixels)
        frames, durations = frames_of(file, range(count))
        exif, icc, xmp = (file.info.get(key) for key in ("exif", "icc_profile", "xmp"))
    notes = ("more than 8 bits of an animation are read as 8",) if _is_deep_avif(data) else ()
    return upright_photo(
        frames, "AVIF", orientation_of(exif), icc=icc, exif=exif, xmp=xmp, durations=durations, notes=notes
    )


def read_heic(data: bytes, name: str, max_pixels: int) -> Photo:
    """A HEIC, turned upright by its container; of several pictures the first.

    Raises:
        UnreadableImageError: the library is not installed.
    """
    picture, count = _open_heic(data, name)
    width, height = picture.size
    check_size(name, width * height, max_pixels)
    frame: Frame = np.asarray(picture).reshape(height, width, -1)
    if frame.dtype == np.uint16:
        frame = widened(frame, int(picture.info.get("bit_depth", 16)))
    icc = picture.info.get("icc_profile") or None
    return upright_photo(
        [to_integers(frame)], "HEIC", icc=icc, exif=picture.info.get("exif"), xmp=picture.info.get("xmp"),
        colour=() if icc else _colour_of(data), notes=_first_of(count),
    )  # fmt: skip


def read_heif(data: bytes, name: str, max_pixels: int) -> Photo:
    """A container whose main brand does not name its content."""
    return (read_avif if _holds_av1(data) else read_heic)(data, name, max_pixels)


def heic_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a HEIC, upright."""
    width, height = _open_heic(data, "")[0].size
    return height, width


def heif_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a container whose main brand does not name its content."""
    return (pillow_size if _holds_av1(data) else heic_size)(data)


def _open_heic(data: bytes, name: str) -> tuple[Any, int]:
    """The main picture, not yet decoded, and the number of pictures."""
    file = extra("pillow_heif", "HEIC", name).open_heif(data, convert_hdr_to_8bit=False, bgr_mode=False)
    return file[file.primary_index], len(file)


def _first_of(pictures: int) -> tuple[str, ...]:
    return (f"the first of {pictures} pictures was taken",) if pictures > 1 else ()


def _holds_av1(data: bytes) -> bool:
    """A HEIF container names AVIF among its compatible brands."""
    brands = data[16 : int.from_bytes(data[:4], "big")]
    return any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4))


def _is_deep_avif(data: bytes) -> bool:
    """An AVIF has more than 8 bits, by its AV1 configuration."""
    at = data.find(b"av1C", 0, _BOXES)
    return at > 0 and bool(data[at + 6] & 0x40)


def _colour_of(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The colour space of a HEIF container as a PNG chunk; empty for sRGB."""
    at = data.find(b"colrnclx", 0, _BOXES)
    if at < 0 or at + 14 > len(data):
        return ()
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    if primaries in _SRGB_PRIMARIES and transfer in _SRGB_TRANSFER:
        return ()
    return ((b"cICP", bytes((primaries & 255, transfer & 255, 0, 1))),)
