"""Puts EXIF and IPTC into a finished TIFF: libvips leaves out the first, and three quarters of the other."""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import Image

from upsr.data.tiff_tags import EXIF_FOLDERS, EXIF_TAGS, IPTC, as_stored, new_directory


def add_tags(path: Path, exif: bytes | None, iptc: bytes | None) -> None:
    """Add camera, date, author and the like to the first directory of a TIFF, the directories of EXIF and GPS, and IPTC.

    They are written behind all that is there; the first directory is written anew after them, as it grows.
    """
    tags = Image.Exif()
    if exif:
        tags.load(b"Exif\0\0" + exif)
    with path.open("r+b") as file:
        head = file.read(16)
        directory = new_directory(head)
        first = directory.next
        for tag in EXIF_TAGS:
            if tag in tags:
                directory[tag] = as_stored(tags[tag])
        for tag in EXIF_FOLDERS:
            if folder := tags.get_ifd(tag):
                directory[tag] = {key: as_stored(value) for key, value in folder.items()}
        if iptc:
            directory[IPTC] = iptc
        if not len(directory):
            return
        end = file.seek(0, 2)
        added = bytes(end % 2) + directory.tobytes(end + end % 2)
        added += bytes(len(added) % 2)
        order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
        count, size, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
        entries = _entries(added[end % 2 :], order + count, size)
        file.seek(first)
        before = file.read(1 << 20)
        kept = _entries(before, order + count, size)
        (after,) = struct.unpack_from(order + pointer, before, struct.calcsize(count) + size * len(kept))
        merged = sorted((kept | entries).items())
        file.seek(end)
        file.write(added)
        place = file.tell()
        file.write(struct.pack(order + count, len(merged)) + b"".join(entry for _, entry in merged))
        file.write(struct.pack(order + pointer, after))
        file.seek(8 if big else 4)
        file.write(struct.pack(order + pointer, place))


def _entries(directory: bytes, count: str, size: int) -> dict[int, bytes]:
    """The entries of a directory, as they stand in it, by their tags."""
    (number,) = struct.unpack_from(count, directory)
    start = struct.calcsize(count)
    found = [directory[at : at + size] for at in range(start, start + size * number, size)]
    return {struct.unpack_from(count[0] + "H", entry)[0]: entry for entry in found}
