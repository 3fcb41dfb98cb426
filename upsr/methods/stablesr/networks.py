"""The frozen networks of StableSR: Stable Diffusion in a folder of diffusers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from upsr.archs.diffusers_library import diffusers
from upsr.errors import UpsrError
from upsr.methods.stablesr.prompts import Prompts
from upsr.weights.diffusers_folder import INDEX, read_network, read_scheduler
from upsr.weights.hub import folder_of

_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_VAE: dict[str, Any] = {
    "sample_size": 768,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "attention_head_dim": (1, 1, 2, 2),
    "cross_attention_dim": 32,
    "use_linear_projection": True,
    "norm_num_groups": 8,
}
_TINY_VAE: dict[str, Any] = {
    **_VAE,
    "sample_size": 64,
    "block_out_channels": (16, 16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
_SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}
_COMPONENTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
_TEXT = ("text_encoder", "tokenizer")


class Backbone(NamedTuple):
    """Stable Diffusion.

    Attributes:
        unet: ``UNet2DConditionModel``.
        vae: ``AutoencoderKL``.
        scheduler: ``DDPMScheduler``, whose numbers are used.
        prompts: embeddings of prompts.
    """

    unet: Any
    vae: Any
    scheduler: Any
    prompts: Prompts


def read(name: str) -> Backbone:
    """The networks in a folder or a repository.

    Raises:
        UpsrError: there is none, or it is damaged.
    """
    folder = folder_of(name)
    unet: Any = read_network("UNet2DConditionModel", folder / "unet")
    vae = read_network("AutoencoderKL", folder / "vae")
    return Backbone(unet, vae, read_scheduler(folder / "scheduler"), Prompts(folder, unet.config.cross_attention_dim))


def published() -> Backbone:
    """Networks of the size of Stable Diffusion 2.1, of 865.91 M and 83.65 M parameters, with random weights."""
    return _random(_UNET, _VAE)


def tiny() -> Backbone:
    """Networks of 1.65 M and 0.26 M parameters with random weights, made for images of 64 x 64."""
    return _random(_TINY_UNET, _TINY_VAE)


def _random(unet: dict[str, Any], vae: dict[str, Any]) -> Backbone:
    library = diffusers()
    networks = library.UNet2DConditionModel(**unet), library.AutoencoderKL(**vae)
    return Backbone(*networks, library.DDPMScheduler(**_SCHEDULER), Prompts(None, unet["cross_attention_dim"]))


RANDOM = {"full": published, "tiny": tiny}
"""Networks with random weights by their size."""


def save(backbone: Backbone, folder: Path) -> None:
    """Write a folder that :func:`read` reads, and diffusers."""
    for name in ("unet", "vae", "scheduler"):
        getattr(backbone, name).save_pretrained(str(folder / name))
    source = backbone.prompts.folder
    here = [name for name in _TEXT if source is not None and (source / name).is_dir()]
    for name in here:
        assert source is not None
        shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    backbone.prompts.save(folder)
    components = {name: kind for name, kind in _COMPONENTS.items() if name in here or name not in _TEXT}
    index = {"_class_name": "StableDiffusionPipeline", **components}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def check_fit(backbone: Backbone, levels: int, key: str) -> None:
    """Refuse networks that do not belong together.

    Args:
        levels: of the time-aware encoder.
        key: option that names the backbone, for messages.

    Raises:
        UpsrError: they do not.
    """
    unet, vae = backbone.unet.config, backbone.vae.config
    if unet.in_channels != vae.latent_channels:
        raise UpsrError(f"{key}: its U-Net takes {unet.in_channels} channels, and its latent has {vae.latent_channels}")
    if len(unet.block_out_channels) != levels:
        raise UpsrError(
            f"encoder.channel_mult: {levels} levels, but the U-Net has {len(unet.block_out_channels)}; make them agree"
        )
