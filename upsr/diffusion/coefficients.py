"""Numbers of a schedule, one for each timestep, as (B,) coefficients of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from upsr.devices import has_float64


class Table:
    """Float64 values at the timesteps -1..T-1, looked up on the device of the timesteps, or on the host if that lacks float64.

    Args:
        values: (T,) values at 0..T-1.
        clean: value at -1, the clean image.
    """

    def __init__(self, values: Tensor, clean: float) -> None:
        values = values.double().cpu()
        # Index t + 1, so that t = -1 is a row like any other.
        self._on = {torch.device("cpu"): torch.cat([values.new_full((1,), clean), values])}

    def __len__(self) -> int:
        return len(self._on[torch.device("cpu")]) - 1

    def __call__(self, t: Tensor) -> Tensor:
        """Values of t's shape."""
        if not has_float64(t.device):
            t = t.cpu()
        if t.device not in self._on:
            self._on[t.device] = self._on[torch.device("cpu")].to(t.device)
        return self._on[t.device][t + 1]


def like(coefficient: Tensor, x: Tensor) -> Tensor:
    """A (B,) coefficient, computed in float64, in x's dtype, on its device and broadcastable over x."""
    return coefficient.to(x.dtype).to(x.device).view(-1, *[1] * (x.dim() - 1))
