"""Extends images to the sizes a network takes."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend (B, C, H, W) at the bottom and the right by reflection until both sides are multiples of ``multiple``.

    Reflection leaves the border row out (reflect-101) and goes on for as long as it takes, so sides smaller than the
    padding work too (the released code fails for LR sides below 33); a side of 1 is repeated.
    """
    height, width = image.shape[-2:]
    rows = _reflected(height, -(-height // multiple) * multiple, image.device)
    columns = _reflected(width, -(-width // multiple) * multiple, image.device)
    return image[..., rows[:, None], columns]


def _reflected(size: int, target: int, device: torch.device) -> Tensor:
    """Indices 0..size-1, then back and forth, ``target`` in all."""
    period = max(2 * (size - 1), 1)
    position = torch.arange(target, device=device) % period
    return torch.minimum(position, period - position) if size > 1 else torch.zeros_like(position)
