"""Contracts of registered networks: what a method uses of them beyond torch's module."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import Self


class SRNetwork(nn.Module):
    """Upscales: called as (lq) with (B, channels, h, w) in [0, 1], returns (B, channels, scale*h, scale*w).

    Attributes:
        scale: upscaling factor.
        channels: image channels.
        size_multiple: h and w are multiples of it.
        carries_weights: the constructor has loaded the weights, no other file is needed.
        values_per_pixel: numbers held at once for each LR pixel while restoring, at most; it decides how large tiles are where
            the network restores photos alone. The default is three times what RRDBNet x4 with 64 channels was measured to take.
    """

    scale: int
    channels: int
    size_multiple: int = 1
    carries_weights: bool = False
    values_per_pixel: int = 8192


class DenoisingNetwork(nn.Module):
    """Estimates the HR image: called as (x, t, lq), see :class:`upsr.archs.UNetModelSwin`.

    Attributes:
        scale: upscaling factor.
        out_channels: image channels.
        cond_channels: channels of the condition.
        size_multiple: sides of the input are multiples of it.
        values_per_pixel: numbers held at once for each LR pixel while restoring, about; it decides how large tiles are.
        full_precision: parts, by a piece of their names, that compute in float32 whatever the others do.
    """

    values_per_pixel: int
    full_precision: tuple[str, ...] = ()
    scale: int
    out_channels: int
    cond_channels: int
    size_multiple: int

    def given(self, lq: Tensor) -> Self:
        """The network for several calls with the condition ``lq``; a faster form may compute its share of them once."""
        return self


class NoisePredictor(nn.Module):
    """An unconditional denoiser: called as (x, t) with (B, channels, H, W) and (B,) int64, returns x's shape.

    Attributes:
        channels: of the diffusion's state.
        sample_size: side of the states that it is trained on.
        size_multiple: H and W are multiples of it.
        carries_weights: the constructor has loaded the weights, no other file is needed.
    """

    channels: int
    sample_size: int
    size_multiple: int = 1
    carries_weights: bool = False
