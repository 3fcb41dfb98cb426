"""LPIPS with its backbone from a file, without pyiqa."""

from __future__ import annotations

import torch
from torch import Tensor

from upsr.archs.imagenet import BackboneUnavailableError
from upsr.archs.lpips_network import Backbone, lpips_network
from upsr.compat import METRIC_REGISTRY
from upsr.metrics.base import MetricUnavailableError
from upsr.metrics.network import NetworkMetric


@METRIC_REGISTRY.register()
class LPIPS(NetworkMetric):
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
            network = lpips_network(net, backbone_path, "LPIPS.backbone_path")
        except BackboneUnavailableError as error:
            raise MetricUnavailableError(str(error)) from None
        super().__init__(network, net, package="lpips")

    def score(self, sr: Tensor, gt: Tensor | None) -> Tensor:
        """The distance; the images may be too small for the backbone, see :class:`NetworkMetric`."""
        try:
            return self.network(sr, gt, normalize=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a pooling layer that is left without pixels
            reason = " ".join(str(error).split())[:120]
            raise MetricUnavailableError(f"LPIPS is not defined for this image ({reason})") from None
