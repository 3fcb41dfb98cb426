"""Gives a restored image the colours of the photo it comes from (StableSR, Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.choices import ColourFix
from upsr.tiling.resizing import BAND, resized_rows
from upsr.tiling.scratch import Scratch, bands

_LEVELS = 5
_REACH = 2**_LEVELS - 1
_EPS = 1e-5 / 4  # 1e-5 for images in [-1, 1]

ColourFixer = Callable[[Tensor, Tensor, Scratch], Tensor]
"""Of a restored image (1, C, H, W) and the LR image (1, C, h, w), both about in [0, 1], a corrected image, not clamped."""


def unchanged(image: Tensor, lq: Tensor, scratch: Scratch) -> Tensor:
    """The image as it is."""
    return image


def adain(image: Tensor, lq: Tensor, scratch: Scratch) -> Tensor:
    """Mean and standard deviation of each channel become those of the LR image (adaptive instance normalisation)."""
    for channel, like in zip(image[0], lq[0].to(image.device), strict=True):
        mean, deviation = channel.mean(), (channel.var() + _EPS).sqrt()
        channel.sub_(mean).mul_((like.var() + _EPS).sqrt() / deviation).add_(like.mean())
    return image


def wavelet(image: Tensor, lq: Tensor, scratch: Scratch) -> Tensor:
    """The low frequencies become those of the LR image, the details stay.

    The low-pass is the a-trous cascade of a 3 x 3 binomial kernel over five octaves. It is linear, so what is added is the
    low-pass of the difference between the upsampled LR image and the restored one.
    """
    height, width = image.shape[-2:]
    result = scratch.zeros(*image.shape)
    for rows in bands(height, BAND):
        top, bottom = max(rows.start - _REACH, 0), min(rows.stop + _REACH, height)
        part = image[..., top:bottom, :].to(lq.device)
        low = _low_pass(resized_rows(lq, (height, width), slice(top, bottom), lq.device) - part)
        fixed = (part + low)[..., rows.start - top : rows.stop - top, :]
        result[..., rows, :] = fixed.to(result.device)
        scratch.release()
    return result


COLOUR_FIXES: dict[ColourFix, ColourFixer] = {"none": unchanged, "adain": adain, "wavelet": wavelet}


def _low_pass(image: Tensor) -> Tensor:
    line = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    channels = image.shape[1]
    for level in range(_LEVELS):
        step = 2**level
        for shape, padding in (((1, 1, 1, 3), (step, step, 0, 0)), ((1, 1, 3, 1), (0, 0, step, step))):
            padded = F.pad(image, padding, mode="replicate")
            image = F.conv2d(padded, line.view(shape).expand(channels, 1, *shape[2:]), dilation=step, groups=channels)
    return image
