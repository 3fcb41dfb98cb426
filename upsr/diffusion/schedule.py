"""The noise schedule of the residual-shifting diffusion, and which of its steps a sampler visits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from upsr.choices import Spacing


def exponential_sqrt_etas(
    steps: int,
    *,
    kappa: float,
    power: float = 0.2,
    min_noise_level: float = 0.2,
    sqrt_eta_end: float = 0.99,
    sqrt_eta_cap: float | None = math.sqrt(0.001),
) -> Tensor:
    """Square roots of eta_0 .. eta_{T-1}, growing from almost no shift to almost the whole residual.

    sqrt(eta_t) = s_0 (s_end / s_0)^((t / (T - 1))^p), s_0 = min(min_noise_level / kappa, min_noise_level, cap). This is
    ResShift's exponential schedule; the cap is what the released UPSR weights add to it (ResShift: no cap).

    Args:
        steps: T, at least 1. With one step the schedule is its end value.
        kappa: noise strength of the process, > 0.
        power: p; smaller values rise earlier.
        min_noise_level: upper bound of kappa * sqrt(eta_0).
        sqrt_eta_end: sqrt(eta_{T-1}), in (0, 1).
        sqrt_eta_cap: upper bound of sqrt(eta_0), or ``None``.

    Returns:
        float64 tensor of shape (steps,).
    """
    if steps == 1:
        return torch.tensor([sqrt_eta_end], dtype=torch.float64)
    start = min(min_noise_level / kappa, min_noise_level)
    if sqrt_eta_cap is not None:
        start = min(start, sqrt_eta_cap)
    progress = torch.linspace(0, 1, steps, dtype=torch.float64) ** power
    return start * (sqrt_eta_end / start) ** progress


def respace(steps: int, count: int, spacing: Spacing = "endpoint") -> list[int]:
    """Timesteps that a sampler with ``count`` network calls visits, in descending order.

    Args:
        steps: T of the schedule that the network was trained with.
        count: number of calls, 1 <= count <= steps.
        spacing: ``"endpoint"`` spreads the calls evenly and always keeps T - 1, where the prior has the noise that the
            network was trained on; one call then means t = T - 1 alone. ``"released"`` is int(T / count * i), which
            drops T - 1 for every 1 < count < T; it is there to repeat the released code's numbers.

    Raises:
        ValueError: ``count`` is not in 1..steps.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"{count} sampling steps were asked for, but the schedule has {steps}; give 1 to {steps}")
    if spacing == "released":
        return [int(steps / count * i) for i in reversed(range(count))]
    if count == 1:
        return [steps - 1]
    return [round((steps - 1) * i / (count - 1)) for i in reversed(range(count))]
