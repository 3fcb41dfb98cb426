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


def axis_windows(length: int, tile: TileOptions, multiple: int, device: torch.device) -> dict[int, Tensor]:
    """The tiles along one side of a padded image: where each starts, and the weights of its pixels there.

    Equally large and evenly spread, and of what number makes the least work. The weights are a Gaussian of an eighth of the tile
    as its standard deviation; those of all tiles at a pixel add up to 1.

    Args:
        length: a multiple of ``multiple``.
        multiple: of sizes, and of starts; of starts 8 if that is less.
    """
    most = min(max(tile.size // multiple, 1) * multiple, length)
    overlap = min(tile.overlap, most // 2)
    fewest = max(math.ceil((length - overlap) / (most - overlap)), 1)

    def size_of(count: int) -> int:
        return math.ceil((length + (count - 1) * overlap) / count / multiple) * multiple

    count = min((n for n in range(fewest, fewest + 3) if size_of(n) <= most), key=lambda n: n * size_of(n))
    size = size_of(count)
    window = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
    apart = (length - size) / max(count - 1, 1)
    # Both length and size are multiples of it: the last tile ends where the image does.
    alignment = math.gcd(_ALIGNMENT, multiple)
    # Tiles of little more than their overlap may round to one place.
    starts = sorted({round(i * apart / alignment) * alignment for i in range(count)})
    total = _added(dict.fromkeys(starts, window), length)
    windows = {start: (window / total[start : start + size]).astype(np.float32) for start in starts}
    assert abs(_added(windows, length) - 1).max() < 1e-6, f"{length} pixels in tiles of {size} at {starts}"
    return {start: torch.tensor(weights, device=device) for start, weights in windows.items()}


def gaussian_windows(length: int, size: int, overlap: int, middle: float, device: torch.device) -> dict[int, Tensor]:
    """As :func:`axis_windows`, in StableSR's form: full tiles at fixed distances, the last moved back inside.

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
