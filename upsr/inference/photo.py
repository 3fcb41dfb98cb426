"""A decoded photo, and its frames as the tensors that networks see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Frame = NDArray[Any]
"""(H, W, C) uint8 or uint16; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)."""


@dataclass(frozen=True, eq=False)
class Photo:
    """What a photo file holds.

    Attributes:
        frames: one for a still, more for an animation, fully composited; all of one shape and dtype, upright.
        format: "PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", or another one that is read but not written.
        icc: colour profile of the pixels.
        exif: a TIFF stream without the "Exif" prefix; its orientation is 1 and its thumbnail is gone.
        durations: milliseconds that each frame of an animation is shown; empty for a still.
        loop: how often an animation plays, 0 for ever.
    """

    frames: tuple[Frame, ...]
    format: str
    icc: bytes | None = None
    exif: bytes | None = None
    durations: tuple[int, ...] = ()
    loop: int = 0


def to_colour(frame: Frame) -> Tensor:
    """(3, H, W) float32 in [0, 1]; grey is repeated.

    What is hidden under fully transparent pixels is often black or white and would come out as fringes around what is
    visible, so it is replaced by the colour of visible pixels nearby.
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
