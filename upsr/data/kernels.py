"""The three blur kernels of a training sample: a few numbers drawn in the data workers, rendered on the training device.

A batch of kernels is one vectorised computation. Values are basicsr's for the same numbers, and the numbers have the
distribution that basicsr draws them from.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from upsr.config.schema_data import BlurOptions, DegradationOptions, FinalOptions
from upsr.devices import in_float64
from upsr.rng import numpy_generator

_SMALL_SINC = 13
"""Sinc kernels below this size keep more of the low frequencies: their cut-off starts at pi/3 instead of pi/5."""

_BELL, _PLATEAU, _SINC = range(3)

COLUMNS = ("size", "kind", "sigma_x", "sigma_y", "theta", "beta", "cutoff")
"""Columns that describe a kernel. A bell is exp(-q^beta / 2), a plateau 1 / (1 + q^beta), q the squared Mahalanobis distance."""

_Description = tuple[float, float, float, float, float, float, float]
_DELTA: _Description = (1, _BELL, 1, 1, 0, 1, 1)


def draw_kernels(options: DegradationOptions, *keys: int | str) -> Tensor:
    """(3, len(COLUMNS)) float32: the first and second blur and the final sinc filter of the sample ``keys``."""
    rng = numpy_generator(*keys, "kernels")
    return torch.tensor(
        [_draw_blur(options.first.blur, rng), _draw_blur(options.second.blur, rng), _draw_final(options.final, rng)],
        dtype=torch.float32,
    )


def render_kernels(descriptions: Tensor, support: int) -> Tensor:
    """Kernels that sum to 1.

    Args:
        descriptions: (..., len(COLUMNS)), see :data:`COLUMNS`.
        support: side of the result, odd and at least the largest size; smaller kernels stand in its middle.

    Returns:
        (..., support, support) float32 on the device of ``descriptions``.
    """
    size, kind, sigma_x, sigma_y, theta, beta, cutoff = in_float64(descriptions)[..., None, None].unbind(dim=-3)
    place = torch.arange(support, device=size.device, dtype=torch.float64) - support // 2
    y, x = place[:, None], place[None, :]
    along, across = x * theta.cos() + y * theta.sin(), y * theta.cos() - x * theta.sin()
    distance = ((along / sigma_x).square() + (across / sigma_y).square()).pow(beta)
    radius = (x.square() + y.square()).sqrt()
    ring = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    ring = torch.where(radius == 0, cutoff.square() / (4 * math.pi), ring)
    value = torch.where(kind == _PLATEAU, 1 / (1 + distance), torch.exp(-0.5 * distance))
    value = torch.where(kind == _SINC, ring, value)
    value = value * (torch.maximum(x.abs(), y.abs()) <= size / 2)
    return (value / value.sum(dim=(-2, -1), keepdim=True)).float().to(descriptions.device)


def _draw_blur(options: BlurOptions, rng: np.random.Generator) -> _Description:
    size = int(rng.choice(options.kernel_sizes))
    if rng.random() < options.sinc_prob:
        return _sinc(size, math.pi / 3 if size < _SMALL_SINC else math.pi / 5, rng)
    weights = np.asarray(options.kernel_prob)
    name = options.kernel_list[rng.choice(len(weights), p=weights / weights.sum())]
    sigma_x = rng.uniform(*options.blur_sigma)
    sigma_y, theta = sigma_x, 0.0
    if name.endswith("aniso"):
        sigma_y, theta = rng.uniform(*options.blur_sigma), rng.uniform(-math.pi, math.pi)
    beta = 1.0
    if name.startswith("generalized"):
        beta = _draw_beta(options.betag_range, rng)
    elif name.startswith("plateau"):
        beta = _draw_beta(options.betap_range, rng)
    return size, _PLATEAU if name.startswith("plateau") else _BELL, sigma_x, sigma_y, theta, beta, 1.0


def _draw_beta(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Below and above 1 alike often, however far the limits are from it."""
    return rng.uniform(limits[0], 1) if rng.random() < 0.5 else rng.uniform(1, limits[1])


def _draw_final(options: FinalOptions, rng: np.random.Generator) -> _Description:
    if rng.random() >= options.sinc_prob:
        return _DELTA
    return _sinc(int(rng.choice(options.kernel_sizes)), math.pi / 3, rng)


def _sinc(size: int, lowest_cutoff: float, rng: np.random.Generator) -> _Description:
    return size, _SINC, 1.0, 1.0, 0.0, 1.0, rng.uniform(lowest_cutoff, math.pi)
