"""EXIF, XMP and IPTC: orientation and resolution in them, and forms that fit upright pixels."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 0x0112, 0x011A, 0x011B, 0x0128
UNITS_PER_INCH = {2: 1.0, 3: 2.54}
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>)\s*)([0-9]+)""")
_PHOTOSHOP, _IPTC = b"Photoshop 3.0\0", 0x0404
_QUARTER_TURNS = (5, 6, 7, 8)

_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda frame: frame[:, ::-1],
    3: lambda frame: frame[::-1, ::-1],
    4: lambda frame: frame[::-1],
    5: lambda frame: frame.swapaxes(0, 1),
    6: lambda frame: frame.swapaxes(0, 1)[:, ::-1],
    7: lambda frame: frame.swapaxes(0, 1)[::-1, ::-1],
    8: lambda frame: frame.swapaxes(0, 1)[::-1],
}


def orientation_of(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Orientation of the stored pixels, 1 to 8 as in EXIF: from the EXIF, else from the XMP, else 1."""
    found = _tags(exif).get(_ORIENTATION) if exif else None
    if found is None and xmp and (match := _XMP_ORIENTATION.search(xmp)):
        found = int(match[2])
    return found if found in _UPRIGHT else 1


def upright(frame: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turns a stored frame (H, W, ...) upright."""
    return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda same: same)(frame))


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) of what :func:`upright` gives."""
    return (width, height) if orientation in _QUARTER_TURNS else (height, width)


def resolution_of(exif: bytes | None) -> tuple[float, float] | None:
    """(horizontal, vertical) in dots per inch from the EXIF, or ``None``."""
    tags = _tags(exif)
    with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        factor = UNITS_PER_INCH[tags.get(_UNIT, 2)]
        across = float(tags[_X_RESOLUTION]) * factor
        return positive(across, float(tags.get(_Y_RESOLUTION, tags[_X_RESOLUTION])) * factor)
    return None


def positive(across: float, down: float) -> tuple[float, float] | None:
    """A resolution, or ``None`` if a number is out of range."""
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def neutral_exif(exif: bytes | None) -> bytes | None:
    """EXIF for upright pixels, without its thumbnail; ``None`` if it cannot be parsed.

    Changed in place: makers' notes refer to their offsets.
    """
    data = bytearray((exif or b"").removeprefix(b"Exif\0\0"))
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, first)
        for place in range(first + 2, first + 2 + 12 * entries, 12):
            if struct.unpack_from(f"{order}H", data, place) == (_ORIENTATION,):
                struct.pack_into(f"{order}HIHH", data, place + 2, 3, 1, 1, 0)
        struct.pack_into(f"{order}I", data, first + 2 + 12 * entries, 0)
    except struct.error:
        return None
    return bytes(data)


def neutral_xmp(xmp: bytes | None) -> bytes | None:
    """XMP for upright pixels, of the same length."""
    return _XMP_ORIENTATION.sub(lambda match: match[1] + b"1".rjust(len(match[2]), b"0"), xmp) if xmp else None


def iptc_of_photoshop(resources: bytes | None) -> bytes | None:
    """The IPTC records in the Photoshop resource block of a JPEG, or ``None``."""
    data, place = resources or b"", len(_PHOTOSHOP)
    while data[place : place + 4] == b"8BIM" and place + 12 <= len(data):
        (kind,) = struct.unpack_from(">H", data, place + 4)
        place += 6 + (data[place + 6] + 2) // 2 * 2  # a name after its length, padded to even length
        size = int.from_bytes(data[place : place + 4], "big")
        if kind == _IPTC:
            return data[place + 4 : place + 4 + size] or None
        place += 4 + size + size % 2
    return None


def photoshop_of_iptc(iptc: bytes) -> bytes:
    """A Photoshop resource block with IPTC records; the inverse of :func:`iptc_of_photoshop`."""
    return _PHOTOSHOP + b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def _tags(exif: bytes | None) -> Image.Exif:
    """The tags of the EXIF; none of a damaged one, which does not matter to the pixels."""
    tags = Image.Exif()
    if exif:
        with contextlib.suppress(Exception):
            tags.load(b"Exif\0\0" + exif.removeprefix(b"Exif\0\0"))
    return tags
