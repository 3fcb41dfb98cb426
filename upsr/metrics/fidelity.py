"""PSNR and SSIM over basicsr's tensor forms."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.devices import has_float64
from upsr.errors import UpsrError
from upsr.metrics.base import Formula, MetricUnavailableError


class FullReference(Formula, ABC):
    """A metric of a restored image against its ground truth.

    Args:
        y_channel: on the luma of BT.601 (studio range), else on the channels as they are. Grey images have one channel.
        crop_border: pixels left out at each edge.
    """

    needs_reference = True
    higher_is_better = True
    smallest_side = 1

    def __init__(self, y_channel: bool = True, crop_border: int = 0) -> None:
        self.y_channel = y_channel
        self.crop_border = crop_border

    @property
    def version(self) -> str:
        """Package, version and name."""
        return f"basicsr {importlib.metadata.version('basicsr')} {type(self).__name__.lower()}"

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1].

        Raises:
            UpsrError: the images are of different sizes.
            MetricUnavailableError: they are too small to be measured.
        """
        if gt is None:
            raise ValueError(f"{type(self).__name__} needs a ground truth")
        if sr.shape != gt.shape:
            raise UpsrError(f"a restored image of {tuple(sr.shape)} has a ground truth of {tuple(gt.shape)}")
        if min(sr.shape[-2:]) - 2 * self.crop_border < self.smallest_side:
            raise MetricUnavailableError(
                f"{type(self).__name__} needs {self.smallest_side} pixels inside a border of {self.crop_border}; "
                f"an image has {sr.shape[-1]}x{sr.shape[-2]}"
            )
        if not has_float64(sr.device):
            sr, gt = sr.cpu(), gt.cpu()  # SSIM is computed in it
        y_channel = self.y_channel and sr.shape[1] == 3
        return float(self._function()(sr, gt, self.crop_border, test_y_channel=y_channel))

    @staticmethod
    @abstractmethod
    def _function() -> Callable[..., Any]:
        """basicsr's function of (sr, gt, crop_border, test_y_channel)."""


@METRIC_REGISTRY.register()
class PSNR(FullReference):
    """10 log10(1 / (mse + 1e-8)) in dB on float images (identical images: 80 dB), as the released code measures."""

    @staticmethod
    def _function() -> Callable[..., Any]:
        from basicsr.metrics.psnr_ssim import calculate_psnr_pt

        return calculate_psnr_pt


@METRIC_REGISTRY.register()
class SSIM(FullReference):
    """Structural similarity, 11 x 11 Gaussian window of sigma 1.5, valid region, in float64.

    Luma is not rounded to 8 bit, unlike in pyiqa's ``ssim`` (use ``PyIQA`` for that form).
    """

    smallest_side = 11

    @staticmethod
    def _function() -> Callable[..., Any]:
        from basicsr.metrics.psnr_ssim import calculate_ssim_pt

        return calculate_ssim_pt
