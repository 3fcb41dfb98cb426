"""Which files are images: by the suffix of their name, or by their first bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from upsr.errors import UpsrError


class UnreadableImageError(UpsrError):
    """An image file that cannot be decoded."""


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
"""Suffixes of the files that are read, in lower case."""

CAMERA_RAW_SUFFIXES = frozenset(
    {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".pef", ".srw", ".raf", ".iiq", ".3fr"}
)
"""Files of raw sensor data. Most are TIFFs whose first picture is a thumbnail, so their content says too little."""

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
"""Where a file says what it is: offset, bytes, kind. HEIF is a container whose content may be AVIF or HEIC."""

_OTHER_SIGNATURES: tuple[tuple[int, bytes], ...] = (
    *((0, b"P%d\n" % number) for number in range(1, 7)),
    (4, b"jP  \r\n\x87\n"),
    (0, b"\xff\x4f\xff\x51"),
    (0, b"8BPS\0\1"),
    (0, b"qoif"),
    (0, b"DDS |\0\0\0"),
    (0, b"icns"),
)
"""Of formats that Pillow reads; those of BMP, ICO, PCX and SGI are too short to trust without a suffix."""

HEAD = 16
"""Bytes from the start of a file that tell its kind."""


def kind_of(head: bytes) -> str | None:
    """The kind that the first ``HEAD`` bytes of a file say, one of those in ``SIGNATURES``, or ``None``."""
    return next((kind for at, mark, kind in SIGNATURES if head.startswith(mark, at)), None)


def is_photo(path: str | os.PathLike[str]) -> bool:
    """Whether a file is taken for a photo where a folder is looked through.

    It is a regular file (or a link to one) with a suffix of a format that is read, or it has another suffix or none and its
    first bytes are those of such a format. Files of raw sensor data are none, nor are pipes and devices, which are never
    opened. A file that cannot be opened is told by its suffix alone. Whether the file is whole is only known when it is read.
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
