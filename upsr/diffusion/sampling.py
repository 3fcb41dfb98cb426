"""Samplers: short functions over a process and a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from upsr.diffusion.residual_shift import ResidualShift

NoiseSource = Callable[[int], Tensor]
"""Gives the k-th noise tensor of a restoration, of the state's shape: 0 for the start, k >= 1 for the k-th step."""


class Denoiser(Protocol):
    """Estimates x_0 from the state scaled by :meth:`ResidualShift.scale_input` and the timesteps (B,)."""

    def __call__(self, x_scaled: Tensor, t: Tensor) -> Tensor: ...


class Step(Protocol):
    """One reverse step from ``t`` to ``t_prev``; ``noise`` is called only by steps that need noise."""

    def __call__(
        self,
        process: ResidualShift,
        *,
        x_0: Tensor,
        x_t: Tensor,
        y: Tensor,
        t: Tensor,
        t_prev: Tensor,
        weight: Tensor | None,
        noise: Callable[[], Tensor],
    ) -> Tensor: ...


def deterministic_step(process: ResidualShift, *, x_0, x_t, y, t, t_prev, weight, noise) -> Tensor:
    """The released sampler; uses neither the weight nor noise."""
    return process.ddim_step(x_0, x_t, y, t, t_prev=t_prev)


def stochastic_step(process: ResidualShift, *, x_0, x_t, y, t, t_prev, weight, noise) -> Tensor:
    """The paper's sampler, Eq. 8."""
    return process.posterior_step(x_0, x_t, t, weight=weight, t_prev=t_prev, noise=noise())


SAMPLERS: dict[str, Step] = {"ddim": deterministic_step, "posterior": stochastic_step}


def sample(
    process: ResidualShift,
    denoiser: Denoiser,
    y: Tensor,
    *,
    weight: Tensor | None,
    noise: NoiseSource,
    timesteps: Sequence[int],
    step: Step = deterministic_step,
    on_start: Callable[[Tensor], None] | None = None,
    on_estimate: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Restore x_0 from y.

    Args:
        y: upsampled LR in the space of the diffusion, (B, ...), in [-1, 1].
        weight: w of y's shape, or ``None`` for isotropic noise.
        noise: see :data:`NoiseSource`.
        timesteps: descending, as :func:`upsr.diffusion.schedule.respace` gives them.
        step: one of :data:`SAMPLERS`.
        on_start: called with the state that sampling starts from.
        on_estimate: called with the timestep and the estimate of x_0 after each network call.

    Returns:
        x_0, not clamped.
    """

    def batched(timestep: int) -> Tensor:
        return torch.full((len(y),), timestep, dtype=torch.int64, device=y.device)

    x = process.prior_sample(y, batched(timesteps[0]), weight=weight, noise=noise(0))
    if on_start is not None:
        on_start(x)
    for k, timestep in enumerate(timesteps):
        t, t_prev = batched(timestep), batched(timesteps[k + 1] if k + 1 < len(timesteps) else -1)
        x_0 = denoiser(process.scale_input(x, t), t)
        if on_estimate is not None:
            on_estimate(timestep, x_0)
        if k + 1 == len(timesteps):
            return x_0
        x = step(process, x_0=x_0, x_t=x, y=y, t=t, t_prev=t_prev, weight=weight, noise=partial(noise, k + 1))
    raise ValueError("no timesteps were given")
