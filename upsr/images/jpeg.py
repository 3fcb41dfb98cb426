"""JPEG: reading, and the comments and resolution that libvips does not write."""

from __future__ import annotations

import contextlib
import io
import struct

from PIL.JpegImagePlugin import JpegImageFile

from upsr.images.metadata import iptc_of_photoshop, orientation_of, positive, resolution_of
from upsr.images.photo import Photo, text_bytes, upright_photo
from upsr.images.vips import field, opened, pixels, profile, vips

LARGEST_SEGMENT = 65533
"""Bytes of a segment's content at most."""

_END = b"\xff\xd9"
_INCHES_PER_UNIT = {1: 1.0, 2: 2.54}


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A JPEG, with or without its end mark; of several pictures the first."""
    notes: tuple[str, ...] = ()
    try:
        image = opened(data, "jpeg", name, max_pixels)
        frame = pixels(image, name)
    except vips().Error:
        if data.endswith(_END):
            raise
        # Warnings count here: given an end mark, libjpeg replaces all other missing data by grey.
        image = opened(data + _END, "jpeg", name, max_pixels, fail_on="warning")
        frame, notes = pixels(image, name), ("the file ends before its end mark",)
    comments: list[bytes] = []
    resolution = None
    with contextlib.suppress(Exception):  # damaged segments do not matter to the pixels
        header = JpegImageFile(io.BytesIO(data))
        comments = [content for kind, content in header.applist if kind == "COM"]
        if "mp" in header.info:  # previews, views of a stereo camera, gain maps
            notes = (*notes, "the first picture of several was taken")
        factor = _INCHES_PER_UNIT[header.info["jfif_unit"]]
        resolution = positive(*(density * factor for density in header.info["jfif_density"]))
    exif, xmp = field(image, "exif-data"), field(image, "xmp-data")
    return upright_photo(
        [frame], "JPEG", orientation_of(exif, xmp), icc=profile(image), exif=exif, xmp=xmp,
        iptc=iptc_of_photoshop(field(image, "iptc-data")),
        texts=tuple(("Comment", comment.decode("utf-8", "surrogateescape")) for comment in comments),
        resolution=resolution_of(exif) or resolution, notes=notes,
    )  # fmt: skip


def additions(head: bytes, photo: Photo) -> list[tuple[int, bytes]]:
    """Positions in a written file, and the segments to insert there.

    Args:
        head: the file's first bytes.
    """
    found = []
    if photo.resolution and head[2:4] != b"\xff\xe0":  # libvips writes none without EXIF
        across, down = (min(max(round(dots), 1), 65535) for dots in photo.resolution)
        found.append((2, b"\xff\xe0" + struct.pack(">H5sHBHHBB", 16, b"JFIF\0", 0x0101, 1, across, down, 0, 0)))
    place = 2
    while 0xE0 <= head[place + 1] <= 0xEF:  # readers expect these segments first
        place += 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    comments = [text_bytes(text) for key, text in photo.texts if key == "Comment"]
    return found + [(place, struct.pack(">HH", 0xFFFE, len(c) + 2) + c) for c in comments if len(c) <= LARGEST_SEGMENT]
