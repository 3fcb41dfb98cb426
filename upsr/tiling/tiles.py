"""Diffusion over tiles that meet at every step: one state and one noise field for the whole image, in bounded memory.

Only the network needs tiles. After each step its estimates are blended with Gaussian weights into one estimate of the image;
so neighbouring tiles cannot drift apart as they do when each is restored for itself and only the results are averaged. Steps
are pointwise and work in bands of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from upsr.config.schema import TileOptions
from upsr.diffusion.sampling import Denoise, Field, Step
from upsr.tiling.peers import Peers
from upsr.tiling.scratch import Scratch, bands
from upsr.tiling.windows import Tile, grid_windows

if TYPE_CHECKING:
    from types import EllipsisType

Progress = Callable[[int, int], None]
"""Called with ``(done, total)``; an exception it raises cancels the restoration."""

_BAND = 64


@dataclass(frozen=True)
class TilePlan:
    """The division of a restoration's work.

    Attributes:
        tile: size and overlap of tiles in LR pixels, see :func:`upsr.tiling.windows.grid_windows`; ``None`` for one tile.
        scratch: memory or files for tensors as large as the image.
        tiles_at_once: tiles in one network call, of one size.
        progress: see :data:`Progress`.
        peers: processes that share the tiles of each step; every one of them ends with the whole image.
    """

    tile: TileOptions | None
    scratch: Scratch
    tiles_at_once: int = 1
    progress: Progress | None = None
    peers: Peers | None = None


def whole_plan(device: torch.device) -> TilePlan:
    """One tile, everything in memory."""
    return TilePlan(None, Scratch(device))


@dataclass
class _Work:
    """Windows that networks have passed over, and will have in the end."""

    done: int = 0
    total: int = 0


class Tiles:
    """A batch of images of one size in windows of up to four sizes.

    Args:
        like: (B, C, h, w), the images; sides are multiples of ``multiple``.
        passes: network passes over the image that are to come, for the progress.
        axes: tiles along the rows and along the columns, as of :func:`upsr.tiling.windows.grid_windows`; by default those of
            the plan.
        beside: another division of the same restoration, with which the progress is shared.

    Attributes:
        windows: size by size, the largest first.
    """

    def __init__(
        self,
        plan: TilePlan,
        like: Tensor,
        multiple: int,
        passes: int,
        axes: tuple[Mapping[int, Tensor], Mapping[int, Tensor]] | None = None,
        beside: Tiles | None = None,
    ) -> None:
        self.plan = plan
        self.device = like.device
        self.batch = len(like)
        self.height, self.width = like.shape[-2:]
        tile = plan.tile or TileOptions(size=max(self.height, self.width, 8), overlap=0)
        self._rows, self._columns = axes or grid_windows(self.height, self.width, tile, multiple, like.device)
        windows = (
            Tile(top, top + len(row), left, left + len(column))
            for top, row in self._rows.items()
            for left, column in self._columns.items()
        )
        self.windows = sorted(windows, key=lambda window: window.size, reverse=True)
        self._work: _Work = _Work() if beside is None else beside._work
        self._work.total += len(self.windows) * passes

    def blank(self, channels: int, scale: int = 1) -> Tensor:
        """(B, channels, scale*h, scale*w) of zeros, in memory or in a file."""
        return self.plan.scratch.zeros(self.batch, channels, self.height * scale, self.width * scale)

    def cut(self, image: Field, windows: Sequence[Tile], scale: int = 1) -> Tensor:
        """The windows of a (B, N, scale*h, scale*w) image or field, stacked along the batch, on the networks' device."""
        return torch.cat([image[window.place(scale)] for window in windows]).to(self.device)

    def blend(self, out: Tensor, of_windows: Callable[[Sequence[Tile]], Tensor], scale: int = 1) -> Tensor:
        """Fill ``out`` with the blended results of ``of_windows`` for all windows.

        Args:
            out: (B, N, scale*h, scale*w).
            of_windows: gives the windows' results, stacked along the batch.
        """
        for rows in bands(self.height, _BAND):
            out[..., rows.start * scale : rows.stop * scale, :].zero_()
            self.plan.scratch.release()
        for batches in self._rounds():
            # Added in the order of the windows, whichever process made them: sums in another order end in other digits.
            for windows, parts in zip(batches, self._made(batches, out.shape[1], of_windows, scale), strict=False):
                for window, part in zip(windows, parts.split(self.batch), strict=False):
                    sides = self._rows[window.top], self._columns[window.left]
                    down, across = (weights.repeat_interleave(scale) for weights in sides)
                    out[window.place(scale)] += (part * (down[:, None] * across)).to(out.device)
            self.plan.scratch.release()
            self._work.done += sum(len(windows) for windows in batches)
            if self.plan.progress is not None:
                self.plan.progress(self._work.done, self._work.total)
        return out

    def in_bands(self, out: Tensor, of_band: Callable[[Tile], Tensor], scale: int = 1) -> Tensor:
        """Fill ``out``, (B, N, scale*h, scale*w), band of rows by band of rows."""
        for rows in bands(self.height, _BAND):
            band = Tile(rows.start, rows.stop, 0, self.width)
            out[band.place(scale)] = of_band(band).to(out.device)
            self.plan.scratch.release()
        return out

    def _rounds(self) -> Iterator[list[list[Tile]]]:
        """Batches of windows of one size, those of one network call each, one for each of the peers."""
        at_once = self.plan.tiles_at_once
        batches = []
        for _, group in itertools.groupby(self.windows, key=lambda window: window.size):
            alike = list(group)
            batches += [alike[first : first + at_once] for first in range(0, len(alike), at_once)]
        size = 1 if self.plan.peers is None else self.plan.peers.world_size
        for first in range(0, len(batches), size):
            yield batches[first : first + size]

    def _made(
        self, batches: list[list[Tile]], channels: int, of_windows: Callable[[Sequence[Tile]], Tensor], scale: int
    ) -> list[Tensor]:
        """The results of a round, gathered from the peers: one batch of windows each, as far as there are any."""
        peers = self.plan.peers
        if peers is None:
            return [of_windows(batches[0]).float()]
        # The tensors that are gathered have one shape: the largest of the round.
        count = max(len(batch) for batch in batches) * self.batch
        height, width = (max(sides) for sides in zip(*(batch[0].size for batch in batches), strict=True))
        parts = torch.zeros(count, channels, scale * height, scale * width, device=self.device)
        if peers.rank < len(batches):
            mine = batches[peers.rank]
            parts[self._inside(mine, scale)] = of_windows(mine)
        gathered = peers.gather_tensors(parts)
        return [part[self._inside(batch, scale)] for part, batch in zip(gathered, batches, strict=False)]

    def _inside(self, batch: list[Tile], scale: int) -> tuple[slice | EllipsisType, ...]:
        """Place of a batch of windows in a tensor as large as the largest."""
        height, width = batch[0].size
        return slice(len(batch) * self.batch), ..., slice(scale * height), slice(scale * width)


def tiled(denoise_in: Callable[[Sequence[Tile]], Denoise], tiles: Tiles) -> Denoise:
    """A denoiser of whole images, made of one for any batch of windows. The estimate it returns lasts until the next call."""
    known: Denoise | None = denoise_in(tiles.windows) if len(tiles.windows) == 1 else None
    out: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if not out:
            out.append(tiles.blank(x.shape[1]))

        def of_windows(windows: Sequence[Tile]) -> Tensor:
            return (known or denoise_in(windows))(tiles.cut(x, windows), t.repeat(len(windows)))

        return tiles.blend(out[0], of_windows)

    return denoise


def banded(step_in: Callable[[Tile], Step], tiles: Tiles) -> Step:
    """A reverse step of whole images, in place, made of one for any band."""

    def step(x_t: Tensor, x_0: Tensor, t: Tensor, t_prev: Tensor, noise: Callable[[], Field]) -> Tensor:
        field: list[Field] = []

        def noise_in(band: Tile) -> Tensor:
            if not field:
                field.append(noise())
            return tiles.cut(field[0], [band])

        def of_band(band: Tile) -> Tensor:
            before, estimate = tiles.cut(x_t, [band]), tiles.cut(x_0, [band])
            return step_in(band)(before, estimate, t, t_prev, lambda: noise_in(band))

        return tiles.in_bands(x_t, of_band)

    return step
