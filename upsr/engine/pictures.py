"""Strips of images for those who rather look than read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_SIDE = 512


def strip(images: Mapping[str, Tensor]) -> Tensor:
    """One row of (C, H, W) images in [0, 1], grey or RGB, brought to the size of the largest; (3, H, W) on the CPU."""
    height, width = (max(image.shape[side] for image in images.values()) for side in (-2, -1))
    shrink = min(1.0, _LARGEST_SIDE / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    row = [
        F.interpolate(image[None].float().cpu().expand(-1, 3, -1, -1), size=size, mode="nearest-exact")
        for image in images.values()
    ]
    from torchvision.utils import make_grid  # a second to import

    return make_grid(torch.cat(row).clamp(0, 1), nrow=len(row), padding=4, pad_value=1.0)
