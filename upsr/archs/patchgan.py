"""The discriminator of patches (Isola et al., CVPR 2017)."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from upsr.compat import ARCH_REGISTRY

_KERNEL, _SLOPE, _SPREAD = 4, 0.2, 0.02
_WIDEST = 8
"""Channels of the widest layer over those of the first."""


@ARCH_REGISTRY.register()
class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of an image; 2,765,633 parameters by default.

    ``norm: batch`` takes mean and variance of each forward pass, in evaluation mode too, and keeps no running ones. Each process
    of a run has those of its own images, so processes do not train exactly what one does with all images; with the other norms
    they do.

    Args:
        width: channels of the first layer; they double with each layer, up to eight times it.
        layers: convolutions of stride 2; three see patches of 70 x 70.
        norm: behind all convolutions but the first and the last.
    """

    def __init__(self, width: int = 64, layers: int = 3, norm: Literal["batch", "group", "none"] = "batch") -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(3, width, _KERNEL, stride=2, padding=1), nn.LeakyReLU(_SLOPE)]
        before = width
        for layer in range(1, layers + 1):
            channels = width * min(2**layer, _WIDEST)
            stride = 2 if layer < layers else 1
            body += [
                nn.Conv2d(before, channels, _KERNEL, stride, padding=1, bias=norm == "none"),
                _norm(norm, channels),
                nn.LeakyReLU(_SLOPE),
            ]
            before = channels
        self.main = nn.Sequential(*body, nn.Conv2d(before, 1, _KERNEL, padding=1))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, 1, h, w), large for patches of photos."""
        logits: Tensor = self.main(image)
        return logits


def _norm(name: str, channels: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    return nn.GroupNorm(math.gcd(32, channels), channels) if name == "group" else nn.Identity()


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0, _SPREAD)
    elif isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(layer.weight, 1, _SPREAD)
        nn.init.zeros_(layer.bias)
