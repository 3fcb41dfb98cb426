"""Weights by a seeded rule, for networks whose published weights are not here."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def filled(state: Mapping[str, Tensor], scale: float, seed: int = 0) -> dict[str, Tensor]:
    """Normal values of a deviation, and norms near 1, by name and seed alone, so in whatever order the names stand."""
    return {name: _drawn(name, value, scale, seed) for name, value in state.items()}


def _drawn(name: str, value: Tensor, scale: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
    noise = scale * torch.randn(value.shape, generator=generator)
    return 1 + noise if value.ndim == 1 and name.endswith("weight") else noise
