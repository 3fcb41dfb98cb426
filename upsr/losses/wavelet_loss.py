"""A perceptual term that needs no trained backbone: the detail of an image, scale by scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.compat import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class WaveletLoss(nn.Module):
    """How much the detail of two images in [-1, 1] differs, in the three detail bands of Haar wavelets at several scales.

    The absolute differences of the coefficients ask for detail in its place; ``energy`` also asks for as much of it as there
    is in the target, wherever it is within a few pixels, which a blurred image cannot give.

    Args:
        loss_weight: factor of the loss.
        levels: scales; level k sees blocks of 2^k pixels.
        energy: weight of the local energies beside the coefficients.
        window: side of the neighbourhood, in coefficients, over which an energy is the mean; at most the whole image.
    """

    def __init__(self, loss_weight: float = 1.0, levels: int = 3, energy: float = 1.0, window: int = 4) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.levels = levels
        self.energy = energy
        self.window = window

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The weighted loss of (B, C, H, W) images, sides multiples of 2^levels."""
        total = prediction.new_zeros(())
        for _ in range(self.levels):
            prediction, detail = _haar(prediction.float())
            target, wanted = _haar(target.float())
            total = total + (detail - wanted).abs().mean()
            if self.energy:
                total = total + self.energy * (self._energy(detail) - self._energy(wanted)).abs().mean()
        return self.loss_weight * total / self.levels

    def _energy(self, detail: Tensor) -> Tensor:
        """Root mean square of the coefficients around each place."""
        window = min(self.window, *detail.shape[-2:])
        mean = F.avg_pool2d(detail.square(), window, stride=max(1, window // 2), ceil_mode=True)
        return (mean + 1e-6).sqrt()


def _haar(image: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of 2 x 2 blocks, (B, C, H/2, W/2), and their three detail bands, (B, 3C, H/2, W/2)."""
    a, b = image[..., 0::2, 0::2], image[..., 0::2, 1::2]
    c, d = image[..., 1::2, 0::2], image[..., 1::2, 1::2]
    return (a + b + c + d) / 4, torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4
