"""Timesteps in the training of diffusion methods: drawn for each sample, and the errors at each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_TENTHS = 10


def drawn_timesteps(low: int, high: int, generators: Sequence[torch.Generator]) -> Tensor:
    """(B,) timesteps of low .. high - 1, uniform, one from each generator."""
    return torch.cat([torch.randint(low, high, (1,), generator=g, device=g.device) for g in generators])


@torch.no_grad()
def errors_by_timestep(prediction: Tensor, target: Tensor, t: Tensor, steps: int) -> Tensor:
    """(2, steps): sum of the samples' mean squared errors at each timestep, and their number."""
    errors = (prediction.float() - target).square().mean(dim=(1, 2, 3))
    table = errors.new_zeros(2, steps)
    return table.index_add_(1, t, torch.stack([errors, torch.ones_like(errors)]))


def errors_by_tenth(prediction: Tensor, target: Tensor, t: Tensor, steps: int) -> Tensor:
    """As :func:`errors_by_timestep`, for tenths of a schedule of many timesteps; logged as tenth_t=0 to tenth_t=9."""
    bins = min(_TENTHS, steps)
    return errors_by_timestep(prediction, target, t * bins // steps, bins)
