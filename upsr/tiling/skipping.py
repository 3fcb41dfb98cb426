"""Windows that need no more network calls keep their last estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from upsr.diffusion.sampling import Denoise
from upsr.tiling.tiles import Tiles
from upsr.tiling.windows import Tile

REMAINING_CHANGE = 1.5
"""Upper bound, measured on UPSR-tiny, of the RMS that a tile still changes, in units of the RMS that bounds it: its uncertainty
before the first step, the last step's change after it (docs/performance.md)."""


def skipping(
    denoise_in: Callable[[Sequence[Tile]], Denoise],
    tiles: Tiles,
    *,
    skip_below: float,
    start: Tensor,
    uncertainty_in: Callable[[Tile], Tensor],
) -> Denoise:
    """As :func:`upsr.tiling.tiles.tiled`, but a window is left out once it is expected to change by less than a bound.

    The first step's change says nothing, as it leads from the first estimate to a picture with texture.

    Args:
        skip_below: root mean square over [0, 1].
        start: (B, ...), the estimate before the first step, in [-1, 1].
        uncertainty_in: a window's uncertainty, in units of [0, 1].
    """
    settled = {window for window in tiles.windows if REMAINING_CHANGE * rms(uncertainty_in(window)) < skip_below}
    spare = [tiles.blank(start.shape[1]) for _ in range(2)]
    before = start

    def of_windows(x: Tensor, t: Tensor, windows: Sequence[Tile]) -> Tensor:
        todo = [window for window in windows if window not in settled]
        parts = denoise_in(todo)(tiles.cut(x, todo), t.repeat(len(todo))).split(tiles.batch) if todo else ()
        found = dict(zip(todo, parts, strict=True))
        if before is not start:
            for window, part in found.items():
                if REMAINING_CHANGE * rms(part - tiles.cut(before, [window])) / 2 < skip_below:
                    settled.add(window)
        return torch.cat([found[w] if w in found else tiles.cut(before, [w]) for w in windows])

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        nonlocal before
        out = spare[0] if before is not spare[0] else spare[1]
        before = tiles.blend(out, lambda windows: of_windows(x, t, windows))
        return before

    return denoise


def rms(image: Tensor) -> float:
    """Root mean square of (B, ...), of the image where it is largest."""
    return float(image.float().square().flatten(1).mean(dim=1).sqrt().max())
