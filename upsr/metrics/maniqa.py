"""MANIQA without pyiqa."""

from __future__ import annotations

from upsr.archs.maniqa_network import UNUSED, MANIQANetwork
from upsr.compat import METRIC_REGISTRY
from upsr.metrics.no_reference import NoReferenceMetric

WEIGHTS = "ckpt_koniq10k.pt"
"""Name of the authors' file of weights of KonIQ-10k, as `upsr weights fetch MANIQA` names it."""


@METRIC_REGISTRY.register()
class MANIQA(NoReferenceMetric):
    """MANIQA on 20 crops of 224 pixels, by a network of this package; pyiqa's ``maniqa`` for the same weights.

    The score is the weighted mean over the patches of all crops, which are not drawn but stand, as in pyiqa 0.1.16, in four rows
    of five, from the upper left corner to the right edge and three quarters of the way down. Images with a side below 225 pixels
    are enlarged to it.

    Args:
        weights_path: weights of the authors' layout; by default ``ckpt_koniq10k.pt`` is looked for where
            `upsr weights fetch MANIQA` puts it and in the folder that ``upsr evaluate --metric-weights`` names.

    Raises:
        MetricUnavailableError: weights are not available.
        UpsrError: the file does not fit.
    """

    def __init__(self, weights_path: str | None = None) -> None:
        super().__init__(MANIQANetwork, weights_path, WEIGHTS, UNUSED)
