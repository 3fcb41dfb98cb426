"""The frame of metrics that a network with published weights measures."""

from __future__ import annotations

import importlib.metadata
import math

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.archs.lpips_network import as_rgb
from upsr.metrics.base import MetricUnavailableError
from upsr.provenance import weights_digest

_DIGITS_OF_DIGEST = 12


class NetworkMetric:
    """A number that a network gives an image. A metric of this kind says how, by :meth:`score`.

    Args:
        network: with its weights.
        package: that the network is of.
        words: of its version, beside the package's and a digest of all weights.
    """

    needs_reference: bool
    higher_is_better: bool

    def __init__(self, network: nn.Module, *words: str, package: str = "upsr") -> None:
        self.name = type(self).__name__
        self.network = network.requires_grad_(False).eval()
        # Of the values, not of the file: a .pth and a .safetensors of the same values are one measure.
        digest = weights_digest(network)[:_DIGITS_OF_DIGEST]
        self._version = " ".join((package, importlib.metadata.version(package), *words, digest))

    @property
    def version(self) -> str:
        """Package, its version, which metric, and a digest of all weights."""
        return self._version

    def to(self, device: torch.device) -> Self:
        """The metric on a device."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1].

        Raises:
            UpsrError: they do not go together.
            MetricUnavailableError: there is no value for them, or none that is finite.
        """
        if gt is None and self.needs_reference:
            raise ValueError(f"{self.name} needs a ground truth")
        value = float(self.score(as_rgb(sr.clamp(0, 1)), None if gt is None else as_rgb(gt)))
        if not math.isfinite(value):
            raise MetricUnavailableError(f"{self.name} of this image is {value}")
        return value

    def score(self, sr: Tensor, gt: Tensor | None) -> Tensor:
        """One number for (1, 3, H, W) images in [0, 1]; ``gt`` is there if the metric needs one.

        Raises:
            UpsrError, MetricUnavailableError: see :meth:`__call__`.
        """
        raise NotImplementedError

    def refuse_small(self, sr: Tensor, smallest: int) -> None:
        """Raise for an image with a side below ``smallest`` pixels.

        Raises:
            MetricUnavailableError: it is one.
        """
        if min(sr.shape[-2:]) < smallest:
            raise MetricUnavailableError(
                f"{self.name} needs {smallest} pixels; an image has {sr.shape[-1]}x{sr.shape[-2]}"
            )
