"""Layers of the denoisers beside torch's own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm32(nn.GroupNorm):
    """Group norm with 32 groups, computed in float32 and returned in the input's dtype."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> the same shape and dtype; (B, C) scale and shift are applied to the normed map."""
        normed = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)
        if scale is None or shift is None:
            return normed
        return torch.addcmul(shift.to(x.dtype)[..., None, None], normed, scale.to(x.dtype)[..., None, None])


class PointwiseConv(nn.Conv2d):
    """A 1 x 1 convolution as a matrix product.

    oneDNN's 1 x 1 convolutions add up in an order that depends on the number of threads. Matrix products do not between one
    and two threads, and take no longer.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H, W), in the memory format of ``x``."""
        pixels = x.permute(0, 2, 3, 1)
        if pixels.is_contiguous():
            return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        weight = self.weight.flatten(1).expand(x.shape[0], -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])


class ConditionedConv(nn.Conv2d):
    """A 3 x 3 convolution of a state and a condition, whose channels follow each other."""

    bias: Tensor

    def __init__(self, state_channels: int, cond_channels: int, out_channels: int) -> None:
        super().__init__(state_channels + cond_channels, out_channels, 3, padding=1)
        self.state_channels = state_channels

    def forward(self, state: Tensor, cond: Tensor) -> Tensor:  # type: ignore[override]
        """(B, state_channels, H, W) and (B, cond_channels, H, W) -> (B, Cout, H, W)."""
        return super().forward(torch.cat([state, cond], dim=1))


class DoublingConv(nn.Conv2d):
    """A 3 x 3 convolution of the map doubled by nearest neighbours."""

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, 2H, 2W)."""
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of raw step indices: (B,) -> (B, dim) float32, cosines first; an odd dim gets a zero column."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class ResBlock(nn.Module):
    """Two norm-SiLU-conv layers around a skip; the time embedding scales and shifts the second norm."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm32(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        last = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out_layers = nn.Sequential(GroupNorm32(out_channels), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if channels == out_channels else PointwiseConv(channels, out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, Cin, H, W) and (B, emb_channels) -> (B, Cout, H, W)."""
        h = self.in_layers(x)
        scale, shift = self.emb_layers(emb).chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(h, 1 + scale, shift)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


class Downsample(nn.Module):
    """A strided convolution that halves the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = DoublingConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return self.conv(x)
