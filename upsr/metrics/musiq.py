"""MUSIQ without pyiqa."""

from __future__ import annotations

from upsr.archs.musiq_network import MUSIQNetwork
from upsr.compat import METRIC_REGISTRY
from upsr.metrics.no_reference import NoReferenceMetric

WEIGHTS = "musiq_koniq_ckpt-e95806b9.pth"
"""Name of the published file of weights of KonIQ-10k, as `upsr weights fetch MUSIQ` names it."""


@METRIC_REGISTRY.register()
class MUSIQ(NoReferenceMetric):
    """MUSIQ at three scales, by a network of this package; pyiqa's ``musiq`` for the same weights.

    Images of any size are measured whole; those whose shorter side would have no pixel left at 224 pixels of the longer one are
    not.

    Args:
        weights_path: weights in PyTorch of one score (KonIQ-10k, SPAQ, PaQ-2-PiQ); by default that of KonIQ-10k,
            ``musiq_koniq_ckpt-e95806b9.pth``, is looked for where `upsr weights fetch MUSIQ` puts it and in the folder that
            ``upsr evaluate --metric-weights`` names.

    Raises:
        MetricUnavailableError: weights are not available.
        UpsrError: the file does not fit.
    """

    def __init__(self, weights_path: str | None = None) -> None:
        super().__init__(MUSIQNetwork, weights_path, WEIGHTS)
