"""LPIPS with its backbone from a file, without pyiqa."""

from __future__ import annotations

import importlib.metadata
import math

import torch
from torch import Tensor

from upsr.archs.imagenet import BackboneUnavailableError
from upsr.archs.lpips_network import Backbone, as_rgb, lpips_network
from upsr.compat import METRIC_REGISTRY
from upsr.metrics.base import MetricUnavailableError
from upsr.provenance import weights_digest

_DIGITS_OF_DIGEST = 12


@METRIC_REGISTRY.register()
class LPIPS:
    """LPIPS v0.1 as published, by the ``lpips`` package. Values of different backbones are not comparable.

    Args:
        net: backbone. Papers report ``alex``.
        backbone_path: torchvision's state dict of the backbone; by default it is looked for in torch's hub folder (which
            ``upsr evaluate --metric-weights`` names) and else fetched, see :func:`upsr.archs.lpips_network.lpips_network`.

    Raises:
        MetricUnavailableError: the backbone's weights are not available.
        UpsrError: the file does not fit.
    """

    needs_reference = True
    higher_is_better = False

    def __init__(self, net: Backbone, backbone_path: str | None = None) -> None:
        try:
            self._network = lpips_network(net, backbone_path, "LPIPS.backbone_path")
        except BackboneUnavailableError as error:
            raise MetricUnavailableError(str(error)) from None
        self.net = net
        # Of the values, not of the file: torchvision's .pth and a .safetensors of the same values are one measure.
        self._digest = weights_digest(self._network)[:_DIGITS_OF_DIGEST]

    @property
    def version(self) -> str:
        """Package, version, backbone, and a digest of all weights."""
        return f"lpips {importlib.metadata.version('lpips')} {self.net} {self._digest}"

    def to(self, device: torch.device) -> LPIPS:
        """The metric on a device."""
        self._network.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The distance of (1, C, H, W) images in [0, 1].

        Raises:
            MetricUnavailableError: the images are too small for the backbone.
        """
        if gt is None:
            raise ValueError("LPIPS needs a ground truth")
        try:
            value = float(self._network(as_rgb(sr.clamp(0, 1)), as_rgb(gt), normalize=True))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a pooling layer that is left without pixels
            reason = " ".join(str(error).split())[:120]
            raise MetricUnavailableError(f"LPIPS is not defined for this image ({reason})") from None
        if not math.isfinite(value):
            raise MetricUnavailableError(f"LPIPS of this image is {value}")
        return value
