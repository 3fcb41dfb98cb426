"""Windows of an image, and the weights their results are blended with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upsr.config.schema import TileOptions

if TYPE_CHECKING:
    from types import EllipsisType

_ALIGNMENT = 8
"""Tiles start at multiples of it, as far as the network's own multiple goes: the attention windows of the first level are then
those of the whole image."""

MOST_AREA = 1.5
"""Of a window, in areas of a tile: larger windows overlap in less of their area, and take more memory."""

MOST_SIDE = 2
"""Of a window, in sides of a tile."""


def most_pixels(size: int) -> int:
    """Of a window that :func:`grid_windows` makes for tiles of a size."""
    return int(MOST_AREA * size**2)


@dataclass(frozen=True)
class Tile:
    """A window of the LR image: rows ``top`` to ``bottom``, columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

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


def grid_windows(
    height: int, width: int, tile: TileOptions, multiple: int, device: torch.device
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The tiles along the rows and the columns of a padded image: where each starts, and the weights of its pixels there.

    Both sides are divided together, so that the areas of all tiles add up to the least. Along a side tiles have one or two
    sizes, and overlap by as much as each other, at least by the tile's overlap (at most by half of the tile). They are
    rectangles of up to :data:`MOST_AREA` times the tile's area and :data:`MOST_SIDE` times its side. The weights are a Gaussian
    of an eighth of each tile as its standard deviation; those of all tiles at a pixel add up to 1.

    Args:
        height, width: multiples of ``multiple``.
        multiple: of sizes, and of starts; of starts 8 if that is less. The tile's size is reduced to it.
    """
    side = max(tile.size // multiple, 1)
    alignment = math.gcd(_ALIGNMENT, multiple)
    overlap = min(-(-tile.overlap // alignment), side * multiple // 2 // alignment) * alignment
    rows, columns = _least_work(height, width, side, overlap, multiple)
    return rows.windows(alignment, device), columns.windows(alignment, device)


def _least_work(height: int, width: int, side: int, overlap: int, multiple: int) -> tuple[_Side, _Side]:
    """The division of rows and columns for tiles of ``side`` multiples; of divisions of equal work, that of smaller windows."""

    def in_windows(length: int, most: int) -> _Side:
        count = max(-(-(length - overlap) // (most * multiple - overlap)), 1)
        return _Side.of(length, count, overlap, multiple)

    if max(height, width) <= side * multiple:
        return in_windows(height, side), in_windows(width, side)
    divisions = []
    # Lower windows than these cannot be wider.
    low = max(int(MOST_AREA * side // MOST_SIDE), overlap // multiple + 1)
    for count in range(in_windows(height, MOST_SIDE * side).count, in_windows(height, low).count + 1):
        rows = _Side.of(height, count, overlap, multiple)
        wide = min(MOST_SIDE * side, int(MOST_AREA * side**2 // rows.largest))
        if wide * multiple > overlap:
            divisions.append((rows, in_windows(width, wide)))
    return min(divisions, key=lambda d: (d[0].total * d[1].total, d[0].largest * d[1].largest, d[0].count))


@dataclass(frozen=True)
class _Side:
    """A side of an image in ``count`` windows, whose sizes are one or two neighbouring multiples.

    Attributes:
        total: sum of the sizes, in multiples.
    """

    length: int
    count: int
    total: int
    multiple: int

    @classmethod
    def of(cls, length: int, count: int, overlap: int, multiple: int) -> _Side:
        """The smallest windows that cover the side and the overlaps."""
        return cls(length, count, -(-(length + (count - 1) * overlap) // multiple), multiple)

    @property
    def largest(self) -> int:
        """Size of the largest window, in multiples."""
        return -(-self.total // self.count)

    def windows(self, alignment: int, device: torch.device) -> dict[int, Tensor]:
        """Starts, multiples of ``alignment``, and weights."""
        # Whole numbers throughout: no rounding takes from an overlap, and the last window ends where the image does.
        ends = [i * self.total // self.count * self.multiple for i in range(self.count + 1)]
        shared = (self.total * self.multiple - self.length) // alignment
        gaps = max(self.count - 1, 1)
        windows = {ends[i] - i * shared // gaps * alignment: _bell(ends[i + 1] - ends[i]) for i in range(self.count)}
        total = _added(windows, self.length)
        weights = {
            start: (window / total[start : start + len(window)]).astype(np.float32) for start, window in windows.items()
        }
        assert abs(_added(weights, self.length) - 1).max() < 1e-6, f"{self}: starts {list(windows)}"
        return {start: torch.tensor(values, device=device) for start, values in weights.items()}


def _bell(size: int) -> NDArray[np.float64]:
    return np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)


def gaussian_windows(length: int, size: int, overlap: int, middle: float, device: torch.device) -> dict[int, Tensor]:
    """The tiles along one side in StableSR's form: full tiles at fixed distances, the last moved back inside.

    Of each where it starts, and the weights of its pixels; those of all tiles at a pixel add up to 1.

    Args:
        middle: of the Gaussian, in the tile's pixels; its standard deviation is a tenth of the tile.
    """
    size = min(size, length)
    window = np.exp(-((np.arange(size) - middle) ** 2) / (2 * 0.01 * size**2))
    starts = tile_starts(length, size, overlap)
    total = _added(dict.fromkeys(starts, window), length)
    return {
        start: torch.tensor((window / total[start : start + size]).astype(np.float32), device=device)
        for start in starts
    }


def _added(windows: Mapping[int, NDArray[Any]], length: int) -> NDArray[np.float64]:
    """The sum of all tiles' weights at each of ``length`` pixels; the tiles by where they start."""
    total = np.zeros(length)
    for start, weights in windows.items():
        total[start : start + len(weights)] += weights
    return total
