"""LPIPS of latents, whose network was trained on latents of Stable Diffusion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upsr.archs.lpips_network import without_backbone
from upsr.archs.weights import misfits, read_weight_file, select_weights
from upsr.compat import LOSS_REGISTRY
from upsr.errors import MissingFileError, UpsrError
from upsr.losses.first_available import LossUnavailableError

_KEY = "LatentLPIPSLoss.weights"
_POOLS = (("slice2", "4"), ("slice3", "9"), ("slice4", "16"))
"""Places of the first three of VGG-16's five."""

_FEATURES = re.compile(r"(?:net\.slice\d|features)\.(\d+)\.(weight|bias)")
_LINEAR = re.compile(r"lins?\.?(\d)\.model\.\d\.weight")
_UNUSED = "scaling_layer."


@LOSS_REGISTRY.register()
class LatentLPIPSLoss(nn.Module):
    """LPIPS of latents, averaged over the batch.

    The network is that of the ``lpips`` package on VGG-16, without the scaling of its input and without the first three of the
    poolings: a latent is an eighth of its image.

    Args:
        weights: InvSR's ``vgg16_sdturbo_lpips.pth``, or another file (.pth, .safetensors) with the names of the ``lpips``
            package or torchvision's.
        loss_weight: factor of the loss.
        channels: of the latents.

    Raises:
        LossUnavailableError: no file is named.
        UpsrError: the file is missing or does not fit.
    """

    def __init__(self, weights: str | None = None, loss_weight: float = 1.0, channels: int = 4) -> None:
        super().__init__()
        if weights is None:
            raise LossUnavailableError(
                f"{_KEY}: a file is needed: vgg16_sdturbo_lpips.pth of https://huggingface.co/OAOA/InvSR "
                "(upsr weights fetch InvSR-latent-LPIPS); without it, set train.perceptual_opt: null"
            )
        with torch.device("meta"):  # drawing weights that the file replaces takes seconds
            network: Any = without_backbone("vgg")
            network.scaling_layer = nn.Identity()
            first = network.net.slice1[0]
            network.net.slice1[0] = nn.Conv2d(channels, first.out_channels, first.kernel_size, padding=first.padding)
        for part, pool in _POOLS:
            setattr(getattr(network.net, part), pool, nn.Identity())
        network.to_empty(device="cpu")
        _fill(network, Path(weights))
        self.network = network.requires_grad_(False).eval()
        self.loss_weight = loss_weight

    def train(self, mode: bool = True) -> LatentLPIPSLoss:
        """Stays in evaluation mode: the metric is frozen."""
        return super().train(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of two batches (B, channels, h, w) of scaled latents, sides at least 2."""
        return self.loss_weight * self.network(prediction, target).float().mean()


@torch.no_grad()
def _fill(network: nn.Module, path: Path) -> None:
    """Copy the weights of a file into the network, all of them."""
    try:
        content = _named(select_weights(read_weight_file(path), None, path)[1])
    except MissingFileError as error:
        raise MissingFileError(f"{_KEY}: {error}", path) from None
    except UpsrError as error:
        raise UpsrError(f"{_KEY}: {error}") from None
    own = _named(dict(network.named_parameters()))
    if faults := misfits(own, content):
        raise UpsrError(
            f"{_KEY}: {path}: the weights are not those of LPIPS on VGG-16 with {own['features.0.weight'].shape[1]} channels: "
            f"{'; '.join(faults)}"
        )
    for name, parameter in own.items():
        parameter.copy_(content[name])


def _named(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under ``features.N.*`` and ``linK``, which the layers have in torchvision and in any numbering of the package."""
    named: dict[str, Tensor] = {}
    for name, value in weights.items():
        if found := _FEATURES.fullmatch(name):
            named[f"features.{found[1]}.{found[2]}"] = value
        elif found := _LINEAR.fullmatch(name):
            named[f"lin{found[1]}"] = value
        elif not name.startswith(_UNUSED):
            named[name] = value
    return named
