"""Graphs of g and the denoiser, and the numbers of the sampler around them; docs/export.md restores a photo with these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from upsr.archs.contracts import DenoisingNetwork
from upsr.diffusion import ResidualShift
from upsr.methods.base import Facts
from upsr.methods.graphs import Graph, Side
from upsr.methods.upsr.uncertainty import UncertaintyWeight


def graphs(g: nn.Module, denoiser: DenoisingNetwork, timesteps: Sequence[int]) -> list[Graph]:
    """g: ``lq`` to ``sr``; the denoiser: ``x``, ``t`` and ``features`` to ``estimate``."""
    channels, condition = denoiser.out_channels, denoiser.cond_channels
    state = channels * denoiser.scale**2

    def images(batch: int, height: int, width: int, random: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(batch, channels, height, width, generator=random),)

    def states(batch: int, height: int, width: int, random: torch.Generator) -> tuple[Tensor, ...]:
        x = torch.randn(batch, state, height, width, generator=random)
        t = torch.tensor([timesteps[i % len(timesteps)] for i in range(batch)])
        return x, t, 2 * torch.rand(batch, condition, height, width, generator=random) - 1

    def shape(channels: int) -> list[Side]:
        return ["batch", channels, "height", "width"]

    inputs: dict[str, list[Side]] = {"x": shape(state), "t": ["batch"], "features": shape(condition)}
    return [
        Graph("g", g, {"lq": shape(channels)}, "sr", images),
        Graph("denoiser", denoiser, inputs, "estimate", states),
    ]


def numbers(facts: Facts, schedule: ResidualShift, uncertainty: UncertaintyWeight) -> dict[str, Any]:
    """Sizes, schedule and noise weight; without uncertainty weighting ``b_u`` is 1."""
    return {
        "scale": facts.scale,
        "channels": facts.channels,
        "size_multiple": facts.multiple,
        "etas": schedule.eta(torch.arange(schedule.num_timesteps)).tolist(),
        "kappa": schedule.kappa,
        "noise_power": schedule.noise_power,
        "data_variance": schedule.data_variance,
        "psi_max": uncertainty.psi_max,
        "b_u": uncertainty.b_u if uncertainty.enabled else 1.0,
    }
