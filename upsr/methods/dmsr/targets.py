"""The timesteps that the estimator of DM-SR learns: distances of upsampled LR images to their ground truths (Sec. 3.1, 4.5)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from upsr import compat  # noqa: F401  (before basicsr)
from upsr.archs.lpips_network import lpips_network
from upsr.methods.base import Frozen
from upsr.methods.dmsr.options import TargetOptions

Distance = Callable[[Tensor, Tensor], Tensor]
"""(B,) distances, float, of two batches (B, 3, H, W) in [-1, 1]; of any shape of B values."""


def distance_of(opt: TargetOptions) -> Distance:
    """The distance that options name; LPIPS is a module.

    Raises:
        UpsrError: the backbone of LPIPS is missing, or does not fit.
    """
    if opt.measure == "lpips":
        return Frozen(lpips_network(opt.net, opt.backbone_path, "train.target.backbone_path"))
    return {"l1": absolute_difference, "ssim": dissimilarity}[opt.measure]


def absolute_difference(x_lr: Tensor, gt: Tensor) -> Tensor:
    """The mean absolute difference of values mapped to [0, 1]."""
    return (x_lr - gt).abs().mean(dim=(1, 2, 3)) / 2


def dissimilarity(x_lr: Tensor, gt: Tensor) -> Tensor:
    """1 - SSIM of luma; the sides are at least 11."""
    from basicsr.metrics.psnr_ssim import calculate_ssim_pt  # two seconds to import

    ssim: Tensor = calculate_ssim_pt((x_lr + 1) / 2, (gt + 1) / 2, 0, test_y_channel=True)
    return 1 - ssim.to(x_lr.dtype)


def timestep_of(distance: Tensor, gain: float, bins: int) -> Tensor:
    """The timestep of each distance: of ``bins``, the share ``gain * distance``, rounded, halves up; 1 .. bins - 1."""
    share = (gain * distance).clamp(0, 1)
    return (bins * share + 0.5).floor().clamp(1, bins - 1)
