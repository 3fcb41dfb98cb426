"""HEIC and JPEG XL, through libraries that are an extra, and what of these containers is read without them."""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upsr.data.image_files import UnreadableImageError
from upsr.data.metadata import orientation_of
from upsr.data.samples import widened

_BOXES = 1 << 14
"""Bytes from the start of a container in which what it says of its colours stands."""

_SRGB_PRIMARIES, _SRGB_TRANSFER = (1, 2), (1, 2, 6, 13, 14, 15)
"""Numbers of ITU-T H.273 for colours as they are usual, or for nothing said."""

_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


@dataclass(frozen=True)
class Picture:
    """An opened file, whose pixels are decoded when they are asked for; size as it is stored."""

    kind: str
    width: int
    height: int
    decode: Callable[[], NDArray[Any]]
    orientation: int = 1
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    colour: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()


def open_heic(data: bytes, name: str) -> Picture:
    """A HEIC, turned upright by its container.

    Raises:
        UnreadableImageError: the library is not there.
    """
    library = _extra("pillow_heif", "HEIC", name)
    file = library.open_heif(data, convert_hdr_to_8bit=False, bgr_mode=False)
    picture = file[file.primary_index]
    info = picture.info

    def decode() -> NDArray[Any]:
        pixels = np.asarray(picture)
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        return widened(pixels, int(info.get("bit_depth", 16))) if pixels.dtype == np.uint16 else pixels

    icc = info.get("icc_profile") or None
    notes = (f"the first of {len(file)} pictures was taken",) if len(file) > 1 else ()
    return Picture(
        "HEIC", picture.size[0], picture.size[1], decode, icc=icc, exif=info.get("exif"), xmp=info.get("xmp"),
        colour=() if icc else colour_of_heif(data), notes=notes,
    )  # fmt: skip


def open_jxl(data: bytes, name: str) -> Picture:
    """A JPEG XL.

    Raises:
        UnreadableImageError: the library is not there.
    """
    library = _extra("pillow_jxl", "JPEG XL", name)
    file = library.JpegXLImagePlugin.JXLImageFile(io.BytesIO(data))

    def decode() -> NDArray[Any]:
        pixels = np.asarray(file)
        return pixels if pixels.ndim == 3 else pixels[..., None]

    exif = file.info.get("exif")
    # What was a JPEG is given back as that, not turned; anything else is upright, whatever its EXIF says.
    orientation = orientation_of(exif) if file.jpeg else 1
    notes = ("the first frame of an animation was taken",) if _Header(data).animated else ()
    icc = file.info.get("icc_profile")
    return Picture(
        "JPEG XL",
        file.width,
        file.height,
        decode,
        orientation,
        icc=icc,
        exif=exif,
        xmp=file.info.get("xmp"),
        notes=notes,
    )


def jxl_size(data: bytes) -> tuple[int, int, int]:
    """Width and height of a JPEG XL as they are stored, and its orientation, from its header."""
    header = _Header(data)
    return header.width, header.height, header.orientation


def holds_av1(data: bytes) -> bool:
    """Whether a HEIF container names AVIF among the brands that it is compatible with."""
    brands = data[16 : int.from_bytes(data[:4], "big")]
    return any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4))


def is_deep_avif(data: bytes) -> bool:
    """Whether an AVIF has more than 8 bits, by its AV1 configuration."""
    at = data.find(b"av1C", 0, _BOXES)
    return at > 0 and bool(data[at + 6] & 0x40)


def colour_of_heif(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Numbers that say how the colours of a HEIF container are meant, as a PNG's chunk has them; none where as usual."""
    at = data.find(b"colrnclx", 0, _BOXES)
    if at < 0 or at + 14 > len(data):
        return ()
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    if primaries in _SRGB_PRIMARIES and transfer in _SRGB_TRANSFER:
        return ()
    return ((b"cICP", bytes((primaries & 255, transfer & 255, 0, 1))),)


def _extra(module: str, kind: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UnreadableImageError(
            f"{name}: {kind} needs an extra; pip install 'upsr[formats]', or export it as JPEG or PNG"
        ) from None


class _Header:
    """The start of a JPEG XL codestream: sizes, orientation, whether it moves."""

    def __init__(self, data: bytes) -> None:
        start = data.find(b"\xff\x0a", 0, _BOXES)
        if start < 0:
            raise ValueError("a JPEG XL without a codestream")
        self._bits = int.from_bytes(data[start + 2 : start + 66], "little")
        self.width, self.height = self._size()
        self.orientation, self.animated = 1, False
        if not self._take(1) and self._take(1):  # not all as usual, and with extra fields
            self.orientation = 1 + self._take(3)
            if self._take(1):
                self._size()
            self.animated = not self._take(1) and bool(self._take(1))  # after a preview, whose size may say more

    def _take(self, count: int) -> int:
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return value

    def _side(self, small: int) -> int:
        return 8 * (1 + self._take(5)) if small else 1 + self._take((9, 13, 18, 30)[self._take(2)])

    def _size(self) -> tuple[int, int]:
        small = self._take(1)
        height = self._side(small)
        ratio = _RATIOS[self._take(3)]
        return (height * ratio[0] // ratio[1] if ratio else self._side(small)), height
