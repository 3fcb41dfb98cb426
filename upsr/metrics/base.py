"""What evaluation asks of a metric."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """A number for one restored image.

    Attributes:
        needs_reference: whether the ground truth is needed; sets without one are then reported as not measured.
        higher_is_better: direction.
    """

    needs_reference: bool
    higher_is_better: bool

    def to(self, device: torch.device) -> Metric:
        """The metric on a device."""
        ...

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1]."""
        ...
