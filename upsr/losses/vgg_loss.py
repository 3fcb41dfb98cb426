"""The perceptual loss of ESRGAN and its successors: distances of VGG's features."""

from __future__ import annotations

import warnings
from typing import Literal
from urllib.error import URLError

import torch
from torch import Tensor, nn

from upsr.archs.lpips_network import as_rgb
from upsr.compat import LOSS_REGISTRY
from upsr.losses.first_available import LossUnavailableError


@LOSS_REGISTRY.register()
class VGGLoss(nn.Module):
    """basicsr's ``PerceptualLoss`` as one number, of images in [-1, 1]. The features are before the activation.

    The ImageNet weights are read from ``experiments/pretrained_models/vgg19-dcbb9e9d.pth`` or fetched by torchvision.

    Args:
        layer_weights: weights of layers by their names: ``{conv5_4: 1}``.
        vgg_type: torchvision's name of the network.
        use_input_norm: images are normalised as the network's training images were.
        perceptual_weight: of the distances of features.
        style_weight: of the distances of their Gram matrices.
        criterion: mean absolute difference, or Frobenius norm.

    Raises:
        LossUnavailableError: the weights are neither there nor reachable.
    """

    def __init__(
        self,
        layer_weights: dict[str, float],
        vgg_type: str = "vgg19",
        use_input_norm: bool = True,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: Literal["l1", "fro"] = "l1",
    ) -> None:
        super().__init__()
        from basicsr.losses.basic_loss import PerceptualLoss

        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")  # about how basicsr calls torchvision
                self.loss = PerceptualLoss(
                    layer_weights, vgg_type, use_input_norm, True, perceptual_weight, style_weight, criterion
                )
        except (URLError, OSError) as error:
            raise LossUnavailableError(
                f"the weights of {vgg_type} could not be fetched ({error}); put them into {torch.hub.get_dir()}/checkpoints, or "
                "without the loss set train.perceptual_opt: null"
            ) from None

    def train(self, mode: bool = True) -> VGGLoss:
        """Stays in evaluation mode: the network is frozen."""
        return super().train(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of two (B, 3 or 1, H, W) batches in [-1, 1]."""
        parts = [part for part in self.loss(as_rgb(prediction), as_rgb(target)) if part is not None]
        return torch.stack(parts).sum()
