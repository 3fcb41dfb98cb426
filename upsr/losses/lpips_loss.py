"""LPIPS as a training loss, with its backbone from a file or from torchvision's hub."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from upsr.compat import LOSS_REGISTRY
from upsr.errors import UpsrError
from upsr.losses.first_available import LossUnavailableError

_BACKBONES = {
    "vgg": torchvision.models.VGG16_Weights.IMAGENET1K_V1,
    "alex": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
    "squeeze": torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
}


@LOSS_REGISTRY.register()
class LPIPSLoss(nn.Module):
    """LPIPS v0.1 of images in [-1, 1], averaged over the batch.

    The learned linear weights come with the ``lpips`` package. The ImageNet backbone does not: it is read from
    ``backbone_path`` or fetched by torchvision.

    Args:
        loss_weight: factor of the loss (released UPSR: 0.5).
        net: backbone.
        backbone_path: torchvision's state dict of the backbone (``vgg16-397923af.pth`` for vgg).
        input_range: what the backbone sees. ``"released"`` repeats the released training, in which images already in
            [-1, 1] were mapped by 2x - 1 once more, to [-3, 1]; ``"correct"`` is LPIPS as published.

    Raises:
        LossUnavailableError: the backbone is neither given nor reachable.
        UpsrError: the file does not fit.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        net: Literal["vgg", "alex", "squeeze"] = "vgg",
        backbone_path: str | None = None,
        input_range: Literal["released", "correct"] = "released",
    ) -> None:
        super().__init__()
        import lpips  # here, so that runs without a perceptual loss do not need it

        # The package prints its set-up and calls torchvision in a way that is deprecated.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        _fill_backbone(self.network.net, _backbone_weights(net, backbone_path))
        self.network.requires_grad_(False).eval()
        self.loss_weight = loss_weight
        self.rescale = input_range == "released"

    def train(self, mode: bool = True) -> LPIPSLoss:
        """Stays in evaluation mode: the metric is frozen."""
        return super().train(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of two (B, 3 or 1, H, W) batches in [-1, 1]; the prediction is clamped to that range."""
        prediction, target = (_rgb(x) for x in (prediction.clamp(-1, 1), target))
        distance = self.network(prediction, target, normalize=self.rescale)
        return self.loss_weight * torch.nan_to_num(distance, nan=0.0).mean()


def _rgb(image: Tensor) -> Tensor:
    return image if image.shape[1] == 3 else image.expand(-1, 3, -1, -1)


def _backbone_weights(net: str, path: str | None) -> Mapping[str, Tensor]:
    weights = _BACKBONES[net]
    file_name = Path(weights.url).name
    key = "train.perceptual_opt.backbone_path"
    if path is None:
        try:
            return weights.get_state_dict(progress=True, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise LossUnavailableError(
                f"LPIPS needs the ImageNet backbone {file_name}, which could not be fetched ({error}). Fetch {weights.url} "
                f"on a machine with internet access and set {key} to the file, or put it into "
                f"{Path(torch.hub.get_dir()) / 'checkpoints'}; without it, set train.perceptual_opt: null"
            ) from None
    if not Path(path).is_file():
        raise UpsrError(f"{key}: no such file: {path}; it is torchvision's {file_name}, from {weights.url}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UpsrError(
            f"{key}: {path} is no readable weight file ({type(error).__name__}); {file_name} is needed"
        ) from None


def _fill_backbone(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy torchvision's ``features.N.*`` into the package's ``sliceK.N.*``, which numbers layers alike."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            source = "features." + name.split(".", 1)[1]
            if source not in weights or weights[source].shape != parameter.shape:
                raise UpsrError(
                    f"train.perceptual_opt.backbone_path: {source} is missing or of another shape; "
                    f"the file is not torchvision's {type(network).__name__} state dict"
                )
            parameter.copy_(weights[source])
