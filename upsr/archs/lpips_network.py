"""The network of LPIPS: learned linear weights of the ``lpips`` package on an ImageNet backbone from a file or a hub."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from upsr.archs.imagenet import BackboneUnavailableError, fetched
from upsr.archs.weights import read_weight_file, select_weights
from upsr.errors import UpsrError

Backbone = Literal["vgg", "alex", "squeeze"]


def lpips_network(net: Backbone, backbone_path: str | None, key: str) -> nn.Module:
    """LPIPS v0.1 in evaluation mode, without gradients of its weights.

    It maps two batches in [-1, 1], or in [0, 1] with ``normalize=True``, to (B, 1, 1, 1) distances.

    Args:
        backbone_path: torchvision's state dict of the backbone (.pth, .safetensors). ``None``: a file in torch's hub folder or
            its ``checkpoints/`` that is named as torchvision names it (``squeezenet1_1-b8a52dc0.pth``) or
            ``squeezenet1_1_imagenet...``; if there is none, torchvision fetches it.
        key: option that holds ``backbone_path``, for messages.

    Raises:
        BackboneUnavailableError: the backbone is neither given nor found nor reachable.
        UpsrError: the file does not fit.
    """
    network = without_backbone(net)
    try:
        weights, source = backbone_weights(net, backbone_path, key)
    except BackboneUnavailableError as error:
        raise BackboneUnavailableError(f"LPIPS needs its ImageNet backbone: {error}") from None
    assert isinstance(network.net, nn.Module)
    _fill(network.net, weights, f"{key}: {source}")
    return network.requires_grad_(False).eval()


def backbone_weights(net: Backbone, backbone_path: str | None, key: str) -> tuple[Mapping[str, Any], str]:
    """torchvision's state dict of a backbone, and where it is from.

    Args:
        backbone_path, key: see :func:`lpips_network`.

    Raises:
        BackboneUnavailableError: it is neither given nor found nor reachable.
        UpsrError: the file cannot be read.
    """
    path = Path(backbone_path) if backbone_path is not None else local_backbone(net)
    return (fetched(_backbone(net), key), _backbone(net).url) if path is None else (_read(net, path, key), str(path))


def without_backbone(net: Backbone) -> nn.Module:
    """LPIPS v0.1 with the linear weights of the package and a backbone of random ones."""
    import lpips  # here, so that runs without LPIPS do not need it

    # The package prints its set-up, calls torchvision in a way that is deprecated, and draws weights that callers replace.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)
        network: nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    return network


def _backbone(net: str) -> Any:
    """torchvision's description of the weights of a backbone."""
    from torchvision import models  # a second to import, which restoring needs nothing of

    known = {"vgg": models.VGG16_Weights, "alex": models.AlexNet_Weights, "squeeze": models.SqueezeNet1_1_Weights}
    return known[net].IMAGENET1K_V1


def as_rgb(image: Tensor) -> Tensor:
    """(B, 3 or 1, H, W) as (B, 3, H, W), which the backbones take."""
    return image if image.shape[1] == 3 else image.expand(-1, 3, -1, -1)


def local_backbone(net: Backbone) -> Path | None:
    """The file of a backbone in torch's hub folder, if it is there."""
    return next(_in_hub_folder(net), None)


def _in_hub_folder(net: str) -> Iterator[Path]:
    """Files of the backbone below torch's hub folder, torchvision's own name first."""
    own = Path(_backbone(net).url).name
    name = own.split("-")[0]
    hub = Path(torch.hub.get_dir())
    for folder in (hub / "checkpoints", hub):
        found = sorted(path for ending in (".pth", ".safetensors") for path in folder.glob(f"{name}*{ending}"))
        # Other networks' names begin alike: vgg16_bn-..., vgg16_features-...
        fitting = [p for p in found if p.stem == name or p.stem.startswith((f"{name}-", f"{name}_imagenet"))]
        yield from sorted(fitting, key=lambda path: path.name != own)


def _read(net: str, path: Path, key: str) -> Mapping[str, Tensor]:
    weights = _backbone(net)
    file_name = Path(weights.url).name
    if not path.is_file():
        raise UpsrError(
            f"{key}: no such file: {path}; it is torchvision's {file_name}: upsr weights fetch {file_name} "
            f"(from {weights.url})"
        )
    try:
        return select_weights(read_weight_file(path), None, path)[1]
    except UpsrError as error:
        raise UpsrError(f"{key}: {error}; {file_name} is needed") from None


def _fill(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy torchvision's ``features.N.*`` into the package's ``sliceK.N.*``, which numbers layers alike."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            source = "features." + name.split(".", 1)[1]
            if source not in weights or weights[source].shape != parameter.shape:
                raise UpsrError(
                    f"{where}: {source} is missing or of another shape; "
                    f"the file is not torchvision's {type(network).__name__} state dict"
                )
            parameter.copy_(weights[source])
