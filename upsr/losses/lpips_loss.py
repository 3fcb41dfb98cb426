"""LPIPS as a training loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from upsr.archs.imagenet import BackboneUnavailableError
from upsr.archs.lpips_network import Backbone, as_rgb, lpips_network
from upsr.compat import LOSS_REGISTRY
from upsr.losses.first_available import LossUnavailableError


@LOSS_REGISTRY.register()
class LPIPSLoss(nn.Module):
    """LPIPS v0.1 of images in [-1, 1], averaged over the batch.

    The learned linear weights come with the ``lpips`` package. The ImageNet backbone does not: it is read from
    ``backbone_path`` or fetched by torchvision, see :func:`upsr.archs.lpips_network.lpips_network`.

    Args:
        loss_weight: factor of the loss (released UPSR: 0.5).
        net: backbone.
        backbone_path: torchvision's state dict of the backbone, .pth or .safetensors (``vgg16-397923af.pth`` for vgg).
        input_range: what the backbone sees. ``"released"`` repeats the released training, in which images already in
            [-1, 1] were mapped by 2x - 1 once more, to [-3, 1]; ``"correct"`` is LPIPS as published.

    Raises:
        LossUnavailableError: the backbone is neither given nor reachable.
        UpsrError: the file does not fit.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        net: Backbone = "vgg",
        backbone_path: str | None = None,
        input_range: Literal["released", "correct"] = "released",
    ) -> None:
        super().__init__()
        try:
            self.network = lpips_network(net, backbone_path, "LPIPSLoss.backbone_path")
        except BackboneUnavailableError as error:
            raise LossUnavailableError(f"{error}; without it, set train.perceptual_opt: null") from None
        self.loss_weight = loss_weight
        self.rescale = input_range == "released"

    def train(self, mode: bool = True) -> LPIPSLoss:
        """Stays in evaluation mode: the metric is frozen."""
        return super().train(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of two (B, 3 or 1, H, W) batches in [-1, 1]; the prediction is clamped to that range."""
        prediction, target = (as_rgb(x) for x in (prediction.clamp(-1, 1), target))
        distance = self.network(prediction, target, normalize=self.rescale)
        return self.loss_weight * torch.nan_to_num(distance, nan=0.0).mean()
