"""The sampling loop. A process, a state in tiles or in files, and skipped work are wrappers around what it calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor


class Field(Protocol):
    """Standard normal values of the state's shape, (B, C, H, W): a tensor, or something that draws what is cut of it."""

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, place: Any, /) -> Tensor:
        """The part at ``(..., rows, columns)``; all of it at ``...``."""
        ...


Noise = Callable[[int], Field]
"""Gives the k-th field of noise: 0 for the start, k >= 1 for the k-th step."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Estimates x_0 from the state x_t and timesteps of shape (B,), in the space of the diffusion."""


class Step(Protocol):
    """One reverse step from ``t`` to ``t_prev``, both (B,); -1 is the clean image. ``noise`` is called only if it is needed."""

    def __call__(self, x_t: Tensor, x_0: Tensor, t: Tensor, t_prev: Tensor, noise: Callable[[], Field]) -> Tensor: ...


def sample(
    x: Tensor,
    denoise: Denoise,
    step: Step,
    timesteps: Tensor,
    noise: Noise,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Restore x_0.

    Args:
        x: the state at the first timesteps, (B, ...).
        timesteps: (B, K), descending along K >= 1, as :func:`upsr.diffusion.schedule.respace` gives them.
        watch: called with k and the estimate of x_0 after each network call.

    Returns:
        The last estimate, not clamped; the step to the clean image is that estimate.
    """
    last = timesteps.shape[1] - 1
    for k, t in enumerate(timesteps.unbind(dim=1)):
        x_0 = denoise(x, t)
        if watch is not None:
            watch(k, x_0)
        if k < last:
            x = step(x, x_0, t, timesteps[:, k + 1], partial(noise, k + 1))
    return x_0


def repeated(timesteps: list[int], batch: int, device: torch.device) -> Tensor:
    """The same timesteps for every sample of a batch, (B, K) int64."""
    # Made on the device: a tensor from a list would be a copy that waits.
    columns = [torch.full((batch,), t, dtype=torch.int64, device=device) for t in timesteps]
    return torch.stack(columns, dim=1)
