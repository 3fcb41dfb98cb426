"""Restores images larger than a tile piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from types import EllipsisType


@dataclass(frozen=True)
class Tile:
    """A window of the LR image: rows ``top`` to ``bottom``, columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def place(self, scale: int = 1) -> tuple[EllipsisType, slice, slice]:
        """Index of the window in an image that is ``scale`` times as large."""
        rows = slice(scale * self.top, scale * self.bottom)
        return ..., rows, slice(scale * self.left, scale * self.right)


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Starts of tiles of ``size`` that cover ``length``: every size - overlap, an overhanging one moved back inside."""
    if length <= size:
        return [0]
    starts = range(0, length, size - overlap)
    return sorted({min(start, length - size) for start in starts})


def tiles_of(height: int, width: int, size: int, overlap: int) -> Iterator[Tile]:
    """The tiles of an image, row by row."""
    for top in tile_starts(height, size, overlap):
        for left in tile_starts(width, size, overlap):
            yield Tile(top, min(top + size, height), left, min(left + size, width))


class Canvas:
    """Collects the restored tiles of a batch of images; where they overlap they are averaged, as the released code does.

    Args:
        lq: (B, C, h, w), the images; dtype and device of the result.
    """

    def __init__(self, lq: Tensor, scale: int) -> None:
        batch, channels, height, width = lq.shape
        self._scale = scale
        self._total = lq.new_zeros(batch, channels, height * scale, width * scale)
        self._count = lq.new_zeros(1, 1, height * scale, width * scale)

    def add(self, pixels: Tensor, tile: Tile) -> None:
        """Put (B, C, ...) pixels, ``scale`` times as large as the tile, in its place."""
        place = tile.place(self._scale)
        self._total[place] += pixels
        self._count[place] += 1

    def result(self) -> Tensor:
        """(B, C, scale*h, scale*w)."""
        return self._total / self._count


def whole(lq: Tensor) -> Tile:
    """The tile that is the image."""
    return Tile(0, lq.shape[-2], 0, lq.shape[-1])
