"""Recognises image files by the suffix of their name or by their first bytes, and refuses those that cannot be read."""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path
from typing import Any

from upsr.errors import UpsrError


class UnreadableImageError(UpsrError):
    """An image file that cannot be decoded."""


class TooManyPixelsError(UnreadableImageError):
    """An image file with more pixels than its reader allows."""


def refusal(name: str, reason: str, remedy: str = "export or download it again") -> UnreadableImageError:
    """The error of a file that is no readable image."""
    return UnreadableImageError(f"{name}: not a readable image ({reason}); {remedy}")


def check_size(name: str, pixels: int, max_pixels: int) -> None:
    """Refuse an image by its number of pixels, before it is decoded.

    Raises:
        TooManyPixelsError: there are more than ``max_pixels``.
    """
    if pixels > max_pixels:
        raise TooManyPixelsError(
            f"{name}: {pixels:,} pixels are more than the {max_pixels:,} allowed; scale it down or allow more"
        )


def extra(module: str, kind: str, name: str) -> Any:
    """A library that is not always installed.

    Raises:
        UnreadableImageError: it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UnreadableImageError(
            f"{name}: {kind} needs an extra; pip install 'upsr[formats]', or export it as JPEG or PNG"
        ) from None


PHOTO_SUFFIXES = frozenset(
    {
        *(".png", ".apng"),
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
        *(".webp", ".gif"),
        *(".tif", ".tiff", ".btf"),
        *(".avif", ".avifs", ".heic", ".heif", ".hif", ".jxl"),
        *(".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c", ".jpeg2000"),
        *(".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
        *(".ico", ".icns", ".pcx", ".psd", ".qoi", ".sgi", ".rgb", ".tga", ".dds"),
    }
)
"""Suffixes of the formats that are read, in lower case."""

CAMERA_RAW_SUFFIXES = frozenset(
    {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".pef", ".srw", ".raf", ".iiq", ".3fr"}
)
"""Raw sensor data. Most are TIFFs whose first page is a thumbnail, so their first bytes do not identify them."""

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"GIF8", "GIF"),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    *(
        (4, b"ftyp" + brand, "HEIC")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
    ),
    *((4, b"ftyp" + brand, "HEIF") for brand in (b"mif1", b"msf1")),
    (4, b"JXL \r\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
)
"""Offset, bytes and format of signatures. HEIF is a container whose content may be AVIF or HEIC."""

_OTHER_SIGNATURES: tuple[tuple[int, bytes], ...] = (
    *((0, b"P%d\n" % number) for number in range(1, 7)),
    (4, b"jP  \r\n\x87\n"),
    (0, b"\xff\x4f\xff\x51"),
    (0, b"8BPS\0\1"),
    (0, b"qoif"),
    (0, b"DDS |\0\0\0"),
    (0, b"icns"),
)
"""Signatures of formats that Pillow reads; those of BMP, ICO, PCX and SGI are too short to trust without a suffix."""

HEAD = 16
"""Bytes at the start of a file that hold all signatures."""


def kind_of(head: bytes) -> str | None:
    """The format in ``SIGNATURES`` that the first ``HEAD`` bytes of a file have, or ``None``."""
    return next((kind for at, mark, kind in SIGNATURES if head.startswith(mark, at)), None)


def is_photo(path: str | os.PathLike[str]) -> bool:
    """True for a file that a search through a folder takes for a photo.

    That is a regular file (or a link to one) that has a suffix of a format that is read, or the first bytes of one. Raw sensor
    data, pipes and devices are not, and are never opened. A file that cannot be opened is judged by its suffix alone. Damage
    shows only in reading.
    """
    suffix = Path(path).suffix.lower()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
    except OSError:
        return suffix in PHOTO_SUFFIXES
    if suffix in PHOTO_SUFFIXES:
        return True
    if suffix in CAMERA_RAW_SUFFIXES:
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return kind_of(head) is not None or any(head.startswith(mark, at) for at, mark in _OTHER_SIGNATURES)
