"""The timestep estimator of DM-SR (App. A.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TimestepEstimator(nn.Module):
    """Estimates a timestep from VGG-19 features of an upsampled LR image: the expectation over all bins (Eq. 10)."""

    def __init__(self, width: int = 64, bins: int = 500) -> None:
        super().__init__()
        from torchvision.models import vgg

        layers = [v if v == "M" else int(v) * width // 64 for v in vgg.cfgs["E"]]
        self.features = vgg.make_layers(layers)
        self.head = nn.Linear(8 * width, bins)

    def forward(self, x_lr: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B,)."""
        logits = self.head(self.features(x_lr).mean(dim=(2, 3)))
        return logits.float().softmax(dim=1) @ torch.arange(logits.shape[1], device=x_lr.device).float()
