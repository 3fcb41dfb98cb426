"""Group norm of maps with channels last."""

from __future__ import annotations

import torch
from torch import Tensor

from upsr.accelerate.native import library

_CHANNELS = 16
"""Channels are a multiple of it."""

_BLOCK = 64
"""Pixels that are added up at once, as in kernels.cpp."""


def takes(x: Tensor) -> bool:
    """The kernel computes the norm of (B, C, H, W), which has channels last."""
    return x.shape[1] % _CHANNELS == 0 and library.take(x)


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    """The norm, by sums in float64, times ``scale`` plus ``shift``.

    Args:
        x: (B, C, H, W) float32 or bfloat16, channels last; :func:`takes` says whether it suits.
        groups: of channels.
        weight, bias: (C,) float32.
        eps: added to the variance.
        scale, shift: (B, C) float32, both or neither.

    Returns:
        The shape, type and layout of ``x``.
    """
    batch, channels, height, width = x.shape
    out = torch.empty_like(x)
    sums = torch.empty(batch * -(-height * width // _BLOCK) * 2 * channels, dtype=torch.float64)
    coefficients = torch.empty(batch * 3 * channels)
    scale, shift = (None if part is None else part.contiguous() for part in (scale, shift))
    library.call(
        "norm", x.data_ptr(), weight.data_ptr(), bias.data_ptr(), *(None if p is None else p.data_ptr() for p in (scale, shift)),
        out.data_ptr(), sums.data_ptr(), coefficients.data_ptr(), batch, height * width, channels, groups, eps, like=x,
    )  # fmt: skip
    return out
