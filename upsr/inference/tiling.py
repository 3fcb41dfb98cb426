"""Restores images larger than a tile piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A window of the LR image: rows ``top`` to ``bottom``, columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


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


def restore_in_tiles(
    lq: Tensor, restore: Callable[[Tensor, Tile], Tensor], *, scale: int, size: int, overlap: int
) -> Tensor:
    """Restore each tile alone and average where tiles overlap, as the released code does.

    Args:
        lq: (B, C, h, w).
        restore: takes a tile's pixels and its place, returns them ``scale`` times as large.

    Returns:
        (B, C, scale*h, scale*w).
    """
    batch, channels, height, width = lq.shape
    total = lq.new_zeros(batch, channels, height * scale, width * scale)
    count = lq.new_zeros(1, 1, height * scale, width * scale)
    for tile in tiles_of(height, width, size, overlap):
        rows = slice(tile.top * scale, tile.bottom * scale)
        columns = slice(tile.left * scale, tile.right * scale)
        total[..., rows, columns] += restore(lq[..., tile.top : tile.bottom, tile.left : tile.right], tile)
        count[..., rows, columns] += 1
    return total / count


def whole(lq: Tensor) -> Tile:
    """The tile that is the image."""
    return Tile(0, lq.shape[-2], 0, lq.shape[-1])
