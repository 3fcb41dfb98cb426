"""A penalty on the pattern that a pixel shuffle can add to an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from upsr.compat import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class GridLoss(nn.Module):
    """Mean absolute difference of two images' patterns with the period of a pixel shuffle.

    A pattern is the mean over a window of the pixels at each place of a period x period cell, less the mean of all places.
    Texture without that period averages out in it, so sharp detail costs nothing; a grid that an LPIPS backbone does not see
    costs its amplitude.

    Args:
        loss_weight: factor of the loss.
        period: of the shuffle; divisors of it are covered.
        window: side of a window, in cells; at most the whole image.
    """

    def __init__(self, loss_weight: float = 1.0, period: int = 4, window: int = 8) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.period = period
        self.window = window

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Weighted loss of (B, C, H, W) images, sides multiples of the period."""
        places = F.pixel_unshuffle((prediction - target).float(), self.period)  # (B, C * period^2, h, w)
        window = min(self.window, *places.shape[-2:])
        means = F.avg_pool2d(places, window, stride=max(1, window // 2))
        means = means.unflatten(1, (-1, self.period**2))
        return self.loss_weight * (means - means.mean(dim=2, keepdim=True)).abs().mean()
