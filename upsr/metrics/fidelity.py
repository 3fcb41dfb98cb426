"""PSNR and SSIM over basicsr's tensor forms."""

from __future__ import annotations

import torch
from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.errors import UpsrError


class _FullReference:
    needs_reference = True
    higher_is_better = True

    def __init__(self, y_channel: bool = True, crop_border: int = 0) -> None:
        self.y_channel = y_channel
        self.crop_border = crop_border

    def to(self, device: torch.device) -> _FullReference:
        """Unchanged: there are no weights."""
        return self

    def _pair(self, sr: Tensor, gt: Tensor | None) -> tuple[Tensor, Tensor]:
        if gt is None:
            raise ValueError(f"{type(self).__name__} needs a ground truth")
        if sr.shape != gt.shape:
            raise UpsrError(f"a restored image of {tuple(sr.shape)} has a ground truth of {tuple(gt.shape)}")
        return sr, gt


@METRIC_REGISTRY.register()
class PSNR(_FullReference):
    """10 log10(1 / (mse + 1e-8)) in dB on float images (identical images: 80 dB), as the released code measures.

    Args:
        y_channel: on the luma of BT.601 (studio range), else on the channels as they are.
        crop_border: pixels left out at each edge.
    """

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1]."""
        from basicsr.metrics.psnr_ssim import calculate_psnr_pt

        sr, gt = self._pair(sr, gt)
        y_channel = self.y_channel and sr.shape[1] == 3
        return float(calculate_psnr_pt(sr, gt, self.crop_border, test_y_channel=y_channel))


@METRIC_REGISTRY.register()
class SSIM(_FullReference):
    """Structural similarity, 11 x 11 Gaussian window of sigma 1.5, valid region, in float64.

    Luma is not rounded to 8 bit, unlike in pyiqa's ``ssim`` (use ``PyIQA`` for that form).

    Args:
        y_channel: on the luma of BT.601 (studio range), else on the channels as they are.
        crop_border: pixels left out at each edge.
    """

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1]."""
        from basicsr.metrics.psnr_ssim import calculate_ssim_pt

        sr, gt = self._pair(sr, gt)
        y_channel = self.y_channel and sr.shape[1] == 3
        return float(calculate_ssim_pt(sr, gt, self.crop_border, test_y_channel=y_channel))
