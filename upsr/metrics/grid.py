"""Strength of the grid that pixel shuffles leave in a restored image."""

from __future__ import annotations

import importlib.metadata
import itertools
import math

import torch
from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.devices import in_float64
from upsr.metrics.base import Formula, MetricUnavailableError

_SMALLEST = 64
_NEAR, _FAR = 3, 8
"""Bins between a grid's frequency and both ends of its neighbourhood: a Hann window spreads a line over two."""


@METRIC_REGISTRY.register()
class Grid(Formula):
    """Power at the frequencies of periods 2 and 4 over that of the frequencies around them, in dB; the largest of all.

    A network that ends in a pixel shuffle by 4 can add a pattern of these periods, which shows in flat areas and which strided
    backbones such as LPIPS's hardly measure. A photo has no reason to have a line there: about 10 dB come by chance.
    """

    needs_reference = False
    higher_is_better = False

    @property
    def version(self) -> str:
        """Package, version and name."""
        return f"upsr {importlib.metadata.version('upsr')} grid"

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for a (1, C, H, W) image in [0, 1].

        Raises:
            MetricUnavailableError: the image is smaller than 64 pixels.
        """
        height, width = (side // 4 * 4 for side in sr.shape[-2:])
        if min(height, width) < _SMALLEST:
            raise MetricUnavailableError(f"Grid needs {_SMALLEST} pixels; an image has {sr.shape[-1]}x{sr.shape[-2]}")
        grey = in_float64(sr[0, :, :height, :width]).mean(dim=0)
        window = torch.outer(*(torch.hann_window(n, periodic=False).to(grey) for n in (height, width)))
        power = torch.fft.fft2((grey - grey.mean()) * window).abs().square()
        floor = float(window.square().sum()) / (12 * 255**2)  # power of the rounding to 8 bit
        ratios = [
            _line_over_neighbours(power, row, column, floor)
            for row, column in itertools.product(
                (0, height // 4, height // 2), (0, width // 4, 3 * width // 4, width // 2)
            )
            if row or column
        ]
        return 10 * math.log10(max(1e-3, *ratios))


def _line_over_neighbours(power: Tensor, row: int, column: int, floor: float) -> float:
    """Power at a frequency over the median power, at least ``floor``, in the frame around it; both wrap around."""
    rows, columns = ((at + torch.arange(-_FAR, _FAR + 1)) % n for at, n in zip((row, column), power.shape, strict=True))
    patch = power[rows.to(power.device)[:, None], columns.to(power.device)]
    frame = torch.ones_like(patch, dtype=torch.bool)
    frame[_FAR - _NEAR + 1 : _FAR + _NEAR, _FAR - _NEAR + 1 : _FAR + _NEAR] = False
    return float(power[row, column] / patch[frame].median().clamp_min(floor))
