"""Image metrics in METRIC_REGISTRY."""

from upsr.metrics.base import Metric
from upsr.metrics.fidelity import PSNR, SSIM
from upsr.metrics.iqa import PyIQA

__all__ = ["PSNR", "SSIM", "Metric", "PyIQA"]
