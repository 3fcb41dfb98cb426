"""Frames of a photo as the tensors that networks see, and back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.images.photo import Frame


def to_colour(frame: Frame) -> Tensor:
    """(3, H, W) float32 in [0, 1]; grey is repeated.

    Fully transparent pixels are often black or white and would leave fringes around visible ones, so they get the colour of
    visible pixels nearby.
    """
    colours = 3 if frame.shape[-1] > 2 else 1
    colour = _planes(frame[..., :colours])
    alpha = alpha_of(frame)
    if alpha is not None and not alpha.all():
        colour = _filled(colour[None], alpha[None])[0]
    return colour.expand(3, -1, -1).contiguous()


def alpha_of(frame: Frame) -> Tensor | None:
    """(1, H, W) float32 in [0, 1]; None for a frame without an alpha channel."""
    return None if frame.shape[-1] % 2 else _planes(frame[..., -1:])


def to_frame(colour: Tensor, alpha: Tensor | None, like: Frame) -> Frame:
    """Back to a frame with the channels and the dtype of ``like``, of any size.

    Args:
        colour: (3, H, W) in [0, 1], clamped; grey frames get its mean, which is exact where the three are equal.
        alpha: (1, H, W) in [0, 1], clamped; None is opaque. Without effect where ``like`` has no alpha.
    """
    channels = like.shape[-1]
    largest = np.iinfo(like.dtype).max
    colour = colour.detach().float()
    planes = list(colour if channels > 2 else _grey(colour))
    frame = np.full((*colour.shape[-2:], channels), largest, like.dtype)
    if alpha is not None and channels % 2 == 0:
        planes.append(alpha.detach().float()[0])
    for channel, plane in enumerate(planes):  # one at a time: a large photo is not held in float once more
        frame[..., channel] = plane.clamp(0, 1).mul_(int(largest)).round_().cpu().numpy()
    return frame


def _planes(frame: Frame) -> Tensor:
    """(H, W, C) integers -> (C, H, W) float32 in [0, 1]."""
    planes = np.empty((frame.shape[-1], *frame.shape[:2]), np.float32)
    np.divide(np.moveaxis(frame, -1, 0), np.float32(np.iinfo(frame.dtype).max), out=planes, dtype=np.float32)
    return torch.from_numpy(planes)


def _grey(colour: Tensor) -> Tensor:
    """(3, H, W) -> (1, H, W) mean; the sum of differences vanishes exactly for equal channels."""
    red, green, blue = colour
    return (green + ((red - green) + (blue - green)) / 3)[None]


def _filled(colour: Tensor, weight: Tensor) -> Tensor:
    """(1, C, H, W), where ``weight`` (1, 1, H, W) is zero taken from a coarser copy that has no such places."""
    if colour.shape[-2:] == (1, 1) or bool(weight.all()):
        return colour
    known = F.avg_pool2d(weight, 2, ceil_mode=True)
    coarse = F.avg_pool2d(colour * weight, 2, ceil_mode=True) / known.clamp_min(torch.finfo(torch.float32).tiny)
    filled = F.interpolate(_filled(coarse, known), size=colour.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, colour, filled, out=filled)
