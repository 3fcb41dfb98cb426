"""Image metrics in METRIC_REGISTRY."""

from upsr.metrics.base import Metric, MetricUnavailableError, SetMetric
from upsr.metrics.clipiqa import CLIPIQA
from upsr.metrics.dists import DISTS
from upsr.metrics.fidelity import PSNR, SSIM
from upsr.metrics.grid import Grid
from upsr.metrics.iqa import FID, NIQE, PyIQA
from upsr.metrics.lpips import LPIPS
from upsr.metrics.maniqa import MANIQA
from upsr.metrics.musiq import MUSIQ
from upsr.metrics.ntire import NTIREScore

__all__ = [
    "CLIPIQA",
    "DISTS",
    "FID",
    "LPIPS",
    "MANIQA",
    "MUSIQ",
    "NIQE",
    "PSNR",
    "SSIM",
    "Grid",
    "Metric",
    "MetricUnavailableError",
    "NTIREScore",
    "PyIQA",
    "SetMetric",
]
