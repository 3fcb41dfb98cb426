"""Protocols of metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.errors import UpsrError


class MetricUnavailableError(UpsrError):
    """A metric cannot be measured here, or not on this image. It is reported as missing, never as 0."""


class Metric(Protocol):
    """A number for one restored image.

    Attributes:
        needs_reference: the ground truth is needed; sets without one are reported as not measured.
        higher_is_better: direction.
        version: package, its version and its name for the metric: numbers of different versions are not comparable unasked.
    """

    needs_reference: bool
    higher_is_better: bool

    @property
    def version(self) -> str: ...

    def to(self, device: torch.device) -> Metric:
        """The metric on a device."""
        ...

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1].

        Raises:
            MetricUnavailableError: this image cannot be measured, being too small, for instance.
        """
        ...


class Formula:
    """A metric without weights."""

    def to(self, device: torch.device) -> Self:
        """Unchanged."""
        return self


class SetMetric(Protocol):
    """A number for a whole set of restored images, as the distance of two distributions.

    Attributes:
        higher_is_better, version: as for :class:`Metric`.
    """

    higher_is_better: bool

    @property
    def version(self) -> str: ...

    def __call__(self, restored: Path, reference: Path) -> float:
        """The value for two folders of images.

        Raises:
            MetricUnavailableError: it cannot be measured on these folders.
        """
        ...
