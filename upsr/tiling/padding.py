"""Extends images to the sizes a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend (B, C, H, W) at the bottom and the right by reflection until both sides are multiples of ``multiple``.

    Reflection leaves the border row out (reflect-101) and goes on for as long as it takes, so sides smaller than the
    padding work too (the released code fails for LR sides below 33); a side of 1 is repeated.
    """
    return pad_to_size(image, padded_size(image.shape[-2:], multiple))


def pad_to_size(image: Tensor, size: Sequence[int]) -> Tensor:
    """As :func:`pad_to_multiple`, to a (height, width) that is at least the image's."""
    rows, columns = (
        _reflected(side, padded, image.device) for side, padded in zip(image.shape[-2:], size, strict=True)
    )
    return image[..., rows[:, None], columns]


def padded_size(size: Sequence[int], multiple: int) -> tuple[int, int]:
    """(height, width), each raised to a multiple of ``multiple``."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def _reflected(size: int, target: int, device: torch.device) -> Tensor:
    """Indices 0..size-1, then back and forth, ``target`` in all."""
    period = max(2 * (size - 1), 1)
    position = torch.arange(target, device=device) % period
    return torch.minimum(position, period - position) if size > 1 else torch.zeros_like(position)
