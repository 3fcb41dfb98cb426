"""What the benchmarks share: the machine's name, a training run on photos that are inside scikit-image."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
import torchvision
from PIL import Image

from upsr.config import CommonOptions, load_options
from upsr.devices import device_name
from upsr.methods import build_method
from upsr.methods.saved import config_of
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.provenance import processor

REPOSITORY = Path(__file__).parents[1]
FULL_SIZE = REPOSITORY / "options" / "000_UPSR_RealSR_x4.yml"
IMAGENET_SIZE = (500, 375)


def machine(device: torch.device) -> str:
    """Device and versions."""
    name = device_name(device) if device.type != "cpu" else f"{processor()}, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def pipeline_of(weights: str, *, device: str, dtype: str, g: str | None = None) -> UPSRPipeline:
    """As for ``upsr upscale``; weights ``"full"`` are random ones of the full size."""
    if weights != "full":
        return UPSRPipeline.from_pretrained(weights, g=g, device=device, dtype=dtype)
    opt = load_options(FULL_SIZE, ["path.pretrain_network_aux=null", "path.allow_random_weights=true"])
    return UPSRPipeline(build_method(opt).eval(), config_of(opt), device, dtype)


def photos(folder: Path, count: int = 8) -> Path:
    """JPEGs of ImageNet's usual size, made of a photo inside scikit-image."""
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(str(files("skimage") / "data" / "astronaut.png")) as file:
        photo = file.convert("RGB")
    for i in range(count):
        photo.rotate(3 * i).resize(IMAGENET_SIZE).save(folder / f"{i}.jpg", quality=92)
    return folder


BACKBONES = {
    "vgg": torchvision.models.vgg16,
    "squeeze": torchvision.models.squeezenet1_1,
}


def training_options(folder: Path, option_file: Path, changes: Sequence[str], *, lpips: str | None) -> CommonOptions:
    """Options of a training on :func:`photos` with random weights.

    Args:
        lpips: backbone of the perceptual loss, one of :data:`BACKBONES`; ``None`` trains without.
    """
    backbone = folder / f"{lpips}.pth"
    if lpips is not None and not backbone.exists():
        torch.save(BACKBONES[lpips](weights=None).state_dict(), backbone)
    perceptual = f"{{type: LPIPSLoss, loss_weight: 0.5, net: {lpips}, backbone_path: {backbone}}}" if lpips else "null"
    return load_options(
        option_file,
        [
            f"datasets.train.dataroot_gt={photos(folder / 'photos')}",
            "datasets.train.meta_info=null",
            "datasets.val_1=null",
            "path.pretrain_network_aux=null",
            "path.allow_random_weights=true",
            f"train.perceptual_opt={perceptual}",
            *changes,
        ],
    )
