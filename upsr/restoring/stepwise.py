"""Diffusion over tiles that meet at every step: one state and one noise field for the whole image, in bounded memory.

The denoiser sees one tile at a time. After each step its estimates are blended with Gaussian weights into one estimate of
the image, from which the next state is made; so neighbouring tiles cannot drift apart as they do when each is restored for
itself and only the results are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upsr.allocator import kept_buffers
from upsr.config.schema import TileOptions
from upsr.methods import AuxiliarySRModel, UPSRModel
from upsr.methods.base import Observer
from upsr.methods.upsr.method import Condition, shower
from upsr.restoring.padding import pad_to_multiple
from upsr.restoring.peers import Team
from upsr.restoring.scratch import Scratch, bands
from upsr.restoring.tiling import Tile

PhotoModel = UPSRModel | AuxiliarySRModel
"""What restores photos: the diffusion model, or a network that gives them in one go."""

Progress = Callable[[int, int], None]
"""Is told how much of the work is done, of how much in all; what it raises ends the work."""

FillNoise = Callable[[int, Tensor], None]
"""Fills a (B, C*s*s, h, w) tensor with the k-th noise field."""

_LEFT = 1.5
"""The result is no further from g(y) than this many times the uncertainty, and no further from the estimate of a step than this
many times what the step changed (but for the first, which says nothing): root mean squares of UPSR-tiny's tiles, see
docs/performance.md."""

_ALIGNMENT = 8
"""Tiles start at multiples of it, as far as the network's own multiple goes: attention windows of the first level are where they
are in the whole image."""

_BAND = 64
_MARGIN = 2


@dataclass(frozen=True)
class Work:
    """How the work is cut up.

    Attributes:
        tile: size and overlap of tiles; they are made multiples of what the network takes.
        tiles_at_once: tiles in one network call.
        scratch: where what is as large as the image goes.
        progress: see :data:`Progress`.
        team: processes that share the tiles of each step; every one of them ends with the whole image.
        bound: a tile is left alone once what is left to do in it is expected to change it by less than this, a root mean
            square over [0, 1]; with 0 no tile is. See :data:`_LEFT`.
    """

    tile: TileOptions
    scratch: Scratch
    tiles_at_once: int = 1
    progress: Progress | None = None
    team: Team | None = None
    bound: float = 0.0


@torch.inference_mode()
def restore_stepwise(
    model: PhotoModel, lq: Tensor, fill_noise: FillNoise, work: Work, observe: Observer | None = None
) -> Tensor:
    """Super-resolve images of any size; with one tile, what ``model.restore`` gives.

    Args:
        model: one without diffusion uses no noise and shows nothing.
        lq: (B, C, h, w) in [0, 1], on the model's device.
        fill_noise: see :data:`FillNoise`; its fields have the padded size, multiples of ``model.size_multiple``.
        observe: is shown whole images, as ``model.restore`` does.

    Returns:
        (B, C, s*h, s*w) in [0, 1], on the model's device or in a file of ``work.scratch``.
    """
    restoration = (
        _Diffusion(model, lq, fill_noise, work) if isinstance(model, UPSRModel) else _FirstEstimate(model, lq, work)
    )
    with kept_buffers(restoration.pixels_at_once):
        return restoration.run(observe)


class _FirstEstimate:
    """An image in tiles, and what the network that needs no noise makes of it: the whole of a model without steps.

    Args:
        model, lq, work: see :func:`restore_stepwise`.
    """

    def __init__(self, model: PhotoModel, lq: Tensor, work: Work) -> None:
        self.model: PhotoModel = model
        self.work = work
        self.size = lq.shape
        self.lq = pad_to_multiple(lq, model.size_multiple)
        self.height, self.width = self.lq.shape[-2:]
        self.rows, self.columns = (
            axis_windows(side, work.tile, model.size_multiple, lq.device) for side in (self.height, self.width)
        )
        self.total = len(self.rows) * len(self.columns) * (1 + len(model.timesteps))
        self.done = 0

    @property
    def pixels_at_once(self) -> int:
        """LR pixels in one network call."""
        tile = self._tiles()[0]
        return len(self.lq) * self.work.tiles_at_once * (tile.bottom - tile.top) * (tile.right - tile.left)

    def run(self, observe: Observer | None) -> Tensor:
        """The image; there is nothing to observe on the way."""
        return self._decoded(self._first_estimate())

    def _first_estimate(self) -> Tensor:
        """(B, C*s*s, h, w)."""
        y_hat = self._blank()
        codec, estimate = self.model.codec, self.model.first_estimate
        self._blend(y_hat, lambda tiles: codec.encode(estimate(self._cut(self.lq, tiles))))
        return y_hat

    def _blank(self) -> Tensor:
        """(B, C*s*s, h, w) of zeros."""
        batch, channels = self.lq.shape[:2]
        return self.work.scratch.zeros(batch, channels * self.model.scale**2, self.height, self.width)

    def _blend(self, image: Tensor, of_tiles: Callable[[Sequence[Tile]], Tensor]) -> None:
        """Write what ``of_tiles`` gives for each tile into ``image``, blended."""
        for rows in bands(self.height, _BAND):
            image[..., rows, :].zero_()
            self.work.scratch.release()
        for batches in self._rounds():
            # Added up in the order of the tiles, whoever made them: sums of another order would end in other digits.
            for tiles, parts in zip(batches, self._made(batches, of_tiles), strict=False):
                for tile, part in zip(tiles, parts.split(len(self.lq)), strict=False):
                    image[tile.place()] += (part * self._window(tile)).to(image.device)
            self.work.scratch.release()
            self.done += sum(len(tiles) for tiles in batches)
            if self.work.progress is not None:
                self.work.progress(self.done, self.total)

    def _made(self, batches: list[list[Tile]], of_tiles: Callable[[Sequence[Tile]], Tensor]) -> list[Tensor]:
        """What the team makes of a round: one batch of tiles each, as far as there are any."""
        team = self.work.team
        if team is None:
            return [of_tiles(batches[0]).float()]
        mine = batches[team.rank] if team.rank < len(batches) else []
        tile = batches[0][0]
        count, channels = self.work.tiles_at_once * len(self.lq), self.lq.shape[1] * self.model.scale**2
        parts = self.lq.new_zeros(count, channels, tile.bottom - tile.top, tile.right - tile.left)
        if mine:
            parts[: len(mine) * len(self.lq)] = of_tiles(mine)
        return team.gather_tensors(parts)

    def _tiles(self) -> list[Tile]:
        """All tiles, equally large, row by row."""
        return [
            Tile(top, top + len(row), left, left + len(column))
            for top, row in self.rows.items()
            for left, column in self.columns.items()
        ]

    def _window(self, tile: Tile) -> Tensor:
        """Weights of a tile's pixels; those of all tiles at a pixel add up to 1."""
        return self.rows[tile.top][:, None] * self.columns[tile.left]

    def _rounds(self) -> Iterator[list[list[Tile]]]:
        """Batches of tiles, those of one network call each, one for each of the team."""
        tiles, at_once = self._tiles(), self.work.tiles_at_once
        batches = [tiles[first : first + at_once] for first in range(0, len(tiles), at_once)]
        size = 1 if self.work.team is None else self.work.team.world_size
        for first in range(0, len(batches), size):
            yield batches[first : first + size]

    def _decoded(self, x_0: Tensor) -> Tensor:
        scale = self.model.scale
        batch, channels, height, width = self.size
        result = self.work.scratch.zeros(batch, channels, height * scale, width * scale)
        for rows in bands(height, _BAND):
            place = Tile(rows.start, rows.stop, 0, width)
            pixels = self.model.codec.decode(self._cut(x_0, [place]))
            # What is infinite stays to be seen as such after the clamp. Asking whether it is would make a GPU wait.
            pixels = pixels.masked_fill(pixels.isinf(), torch.nan).clamp(-1, 1)
            result[place.place(scale)] = ((pixels + 1) / 2).to(result.device)
            self.work.scratch.release()
        return result

    def _cut(self, image: Tensor, tiles: Sequence[Tile]) -> Tensor:
        """The tiles of a (B, ...) image one after the other, on the model's device."""
        return torch.cat([image[tile.place()] for tile in tiles]).to(self.lq.device)


class _Diffusion(_FirstEstimate):
    """What the steps make of the first estimate."""

    model: UPSRModel

    def __init__(self, model: UPSRModel, lq: Tensor, fill_noise: FillNoise, work: Work) -> None:
        super().__init__(model, lq, work)
        self.fill_noise = fill_noise
        self.settled: set[Tile] = set()

    def run(self, observe: Observer | None) -> Tensor:
        """The image; the observer is shown what :meth:`UPSRModel.restore` shows, and the weight."""
        model = self.model
        show = shower(None if observe is None else self._cropping(observe), model.codec)
        self.y_hat = y_hat = self._first_estimate()
        if observe is not None:
            self._show_condition(show)
        if not model.timesteps:
            return self._decoded(y_hat)
        x, x_0 = self._start(), self._blank()
        show("x_T", x, encoded=True)
        before = y_hat
        self.settled = {tile for tile in self._tiles() if self._is_certain(tile)}
        for k, timestep in enumerate(model.timesteps):
            self._blend(x_0, partial(self._estimated, x, before, timestep))
            show(f"t={timestep}", x_0, encoded=True)
            if k + 1 < len(model.timesteps):
                self._advance(x, x_0, k)
                if self.work.bound:
                    before, x_0 = x_0, self._blank() if before is y_hat else before
        return self._decoded(x_0)

    def _is_certain(self, tile: Tile) -> bool:
        return self.work.bound > 0 and _LEFT * _size(self._condition([tile]).psi) < self.work.bound

    def _estimated(self, x: Tensor, before: Tensor, timestep: int, tiles: Sequence[Tile]) -> Tensor:
        """As :meth:`_denoised`, but settled tiles keep the estimate that is there."""
        todo = [tile for tile in tiles if tile not in self.settled]
        found = dict(zip(todo, self._denoised(x, timestep, todo).split(len(self.lq)), strict=True)) if todo else {}
        if self.work.bound and before is not self.y_hat:
            change = {tile: _size(part - self._cut(before, [tile])) / 2 for tile, part in found.items()}
            self.settled |= {tile for tile in found if _LEFT * change[tile] < self.work.bound}
        return torch.cat([found[tile] if tile in found else self._cut(before, [tile]) for tile in tiles])

    def _denoised(self, x: Tensor, timestep: int, tiles: Sequence[Tile]) -> Tensor:
        """(n*B, C*s*s, h, w): the estimate of x_0 in some tiles."""
        model = self.model
        cond = self._of_whole if len(self._tiles()) == 1 else self._condition(tiles)
        x_t = self._cut(x, tiles)
        t = self._batched(timestep, len(x_t))
        return model.codec.encode(model.estimate(model.process.scale_input(x_t, t), t, cond))

    @cached_property
    def _of_whole(self) -> Condition:
        """Prepared for all steps; of an image in several tiles it would take too much memory to keep them all."""
        return self.model.prepared(self._condition(self._tiles()))

    def _condition(self, tiles: Sequence[Tile]) -> Condition:
        y = torch.cat([self._upsampled(tile) for tile in tiles])
        return self.model.condition_of(y, self.model.codec.decode(self._cut(self.y_hat, tiles)))

    def _upsampled(self, tile: Tile) -> Tensor:
        """y of a tile, as it is in the whole image."""
        top, left = max(tile.top - _MARGIN, 0), max(tile.left - _MARGIN, 0)
        y = self.model.upsample(self.lq[..., top : tile.bottom + _MARGIN, left : tile.right + _MARGIN])
        return y[Tile(tile.top - top, tile.bottom - top, tile.left - left, tile.right - left).place(self.model.scale)]

    def _start(self) -> Tensor:
        """x_T, band by band out of the noise field."""
        x = self._blank()
        self.fill_noise(0, x)
        encode = self.model.codec.encode
        t = self._batched(self.model.timesteps[0], len(x))
        for place, noise in self._in_bands(x):
            cond = self._condition([place])
            start = self.model.process.prior_sample(encode(cond.y), t, weight=encode(cond.weight), noise=noise)
            x[place.place()] = start.to(x.device)
        return x

    def _advance(self, x: Tensor, x_0: Tensor, k: int) -> None:
        """Make the state after step k out of the one before, in place."""
        encode = self.model.codec.encode
        t, t_prev = (self._batched(step, len(x)) for step in self.model.timesteps[k : k + 2])
        field: list[Tensor] = []

        def noise(place: Tile) -> Tensor:
            if not field:
                field.append(self._blank())
                self.fill_noise(k + 1, field[0])
            return self._cut(field[0], [place])

        for place, x_t in self._in_bands(x):
            cond = self._condition([place])
            after = self.model.step(
                self.model.process,
                x_0=self._cut(x_0, [place]),
                x_t=x_t,
                y=encode(cond.y),
                t=t,
                t_prev=t_prev,
                weight=encode(cond.weight),
                noise=partial(noise, place),
            )
            x[place.place()] = after.to(x.device)

    def _in_bands(self, x: Tensor) -> Iterator[tuple[Tile, Tensor]]:
        for rows in bands(self.height, _BAND):
            place = Tile(rows.start, rows.stop, 0, self.width)
            yield place, self._cut(x, [place])
            self.work.scratch.release()

    def _cropping(self, observe: Observer) -> Observer:
        """Shows images without their padding."""
        height, width = (side * self.model.scale for side in self.size[-2:])
        return lambda name, image: observe(name, image[..., :height, :width])

    def _show_condition(self, show: Callable[..., None]) -> None:
        cond = self._condition([Tile(0, self.height, 0, self.width)])
        show("g(y)", cond.y_hat)
        show("uncertainty", 2 * cond.psi / self.model.uncertainty.psi_max - 1)
        show("weight", 2 * cond.weight - 1)

    def _batched(self, timestep: int, count: int) -> Tensor:
        return torch.full((count,), timestep, dtype=torch.int64, device=self.lq.device)


def axis_windows(length: int, tile: TileOptions, multiple: int, device: torch.device) -> dict[int, Tensor]:
    """The tiles along one side of a padded image: where each starts, and the weights of its pixels there.

    Equally large and evenly spread, and of what number makes the least work. The weights are a Gaussian of an eighth of the tile
    as its standard deviation; those of all tiles at a pixel add up to 1.

    Args:
        length: a multiple of ``multiple``.
        multiple: what sizes are multiples of; starts are multiples of it too, or of 8 if that is less.
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


def _added(windows: Mapping[int, NDArray[Any]], length: int) -> NDArray[np.float64]:
    """The sum of all tiles' weights at each of ``length`` pixels; the tiles by where they start."""
    total = np.zeros(length)
    for start, weights in windows.items():
        total[start : start + len(weights)] += weights
    return total


def _size(image: Tensor) -> float:
    """Root mean square of (B, ...), of the image where it is largest."""
    return float(image.float().square().flatten(1).mean(dim=1).sqrt().max())
