"""Image metrics in METRIC_REGISTRY."""

from upsr.metrics.base import Metric, MetricUnavailableError, SetMetric
from upsr.metrics.fidelity import PSNR, SSIM
from upsr.metrics.iqa import FID, NIQE, PyIQA

__all__ = ["FID", "NIQE", "PSNR", "SSIM", "Metric", "MetricUnavailableError", "PyIQA", "SetMetric"]
