"""JPEG XL, through a library that is an extra; its size is read without it."""

from __future__ import annotations

import io

import numpy as np

from upsr.images.kinds import check_size, extra
from upsr.images.metadata import orientation_of, upright_size
from upsr.images.photo import Photo, upright_photo
from upsr.images.samples import to_integers

_SEARCHED = 1 << 14
"""Bytes from the start of a file in which its codestream begins."""

_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A JPEG XL; of an animation the first frame.

    Raises:
        UnreadableImageError: the library is not installed.
    """
    header = _Header(data)
    check_size(name, header.width * header.height, max_pixels)
    file = extra("pillow_jxl", "JPEG XL", name).JpegXLImagePlugin.JXLImageFile(io.BytesIO(data))
    frame = np.asarray(file)
    exif = file.info.get("exif")
    return upright_photo(
        [to_integers(frame if frame.ndim == 3 else frame[..., None])],
        "JPEG XL",
        # A transcoded JPEG is returned as it was, not turned; everything else is upright whatever its EXIF says.
        orientation_of(exif) if file.jpeg else 1,
        icc=file.info.get("icc_profile"),
        exif=exif,
        xmp=file.info.get("xmp"),
        notes=("the first frame of an animation was taken",) if header.animated else (),
    )


def size(data: bytes) -> tuple[int, int]:
    """(height, width), upright."""
    header = _Header(data)
    return upright_size(header.height, header.width, header.orientation)


class _Header:
    """The start of a codestream: stored size, orientation, and the animation flag."""

    def __init__(self, data: bytes) -> None:
        start = data.find(b"\xff\x0a", 0, _SEARCHED)
        if start < 0:
            raise ValueError("a JPEG XL without a codestream")
        self._bits = int.from_bytes(data[start + 2 : start + 66], "little")
        self.width, self.height = self._size()
        self.orientation, self.animated = 1, False
        if not self._take(1) and self._take(1):  # not all default, and with extra fields
            self.orientation = 1 + self._take(3)
            if self._take(1):
                self._size()
            self.animated = not self._take(1) and bool(self._take(1))  # the flag before it announces a preview

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
