"""Stable Diffusion in a folder of diffusers: the frozen networks of methods that stand on it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from upsr.archs.diffusers_library import diffusers
from upsr.errors import UpsrError
from upsr.methods.options import StableDiffusionOptions
from upsr.methods.prompts import Prompts, transformers
from upsr.weights.diffusers_folder import INDEX, described_network, read_network, read_scheduler
from upsr.weights.hub import folder_of

PIPELINE = "StableDiffusionPipeline"
KEY = "backbone"
"""The option that names the folder."""

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
_TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: the embedding is what the last but one gives
    "num_attention_heads": 16,
    "hidden_act": "gelu",
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

    @property
    def cell(self) -> int:
        """Pixels per side of a cell of the latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def backbone_of(opt: StableDiffusionOptions, method: str, docs: str) -> Backbone:
    """The networks that options name, or with ``path.allow_random_weights`` such with random weights.

    Args:
        method: its name for people.
        docs: the page that says where to get a folder.

    Raises:
        UpsrError: they name none, or networks that do not belong together.
    """
    if opt.backbone is None and not opt.path.allow_random_weights:
        raise UpsrError(f"{KEY}: {method} needs Stable Diffusion, a folder of diffusers; {docs} says how to get one")
    diffusers("sd")
    backbone = RANDOM[opt.random_backbone]() if opt.backbone is None else read(opt.backbone)
    unet, vae = backbone.unet.config, backbone.vae.config
    if unet.in_channels != vae.latent_channels:
        raise UpsrError(f"{KEY}: its U-Net takes {unet.in_channels} channels, and its latent has {vae.latent_channels}")
    return backbone


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


def described(name: str | None) -> Backbone:
    """The networks that a folder or a repository describes, or without a name those of :func:`published`, without weights.

    They are on the device ``meta``. Prompts are of random networks.

    Raises:
        UpsrError: there is no such folder, or it is damaged.
    """
    diffusers("sd")
    if name is None:
        with torch.device("meta"):
            return published()
    folder = folder_of(name)
    unet: Any = described_network("UNet2DConditionModel", folder / "unet")
    vae = described_network("AutoencoderKL", folder / "vae")
    return Backbone(unet, vae, read_scheduler(folder / "scheduler"), Prompts(None, unet.config.cross_attention_dim))


def text_tower(name: str | None) -> Any:
    """The ``CLIPTextModel`` beside the networks of :func:`described`, on the device ``meta``."""
    library = transformers()
    if name is None:
        config = library.CLIPTextConfig(**_TEXT_ENCODER)
    else:
        folder = folder_of(name) / "text_encoder"
        if not (folder / "config.json").is_file():
            raise UpsrError(f"{folder}: no config.json, which describes the text tower of the checkpoint")
        config = library.CLIPTextConfig.from_pretrained(str(folder), local_files_only=True)
    with torch.device("meta"):
        return library.CLIPTextModel(config)


def half_copies(modules: Mapping[str, nn.Module], dtype: torch.dtype) -> dict[str, Any]:
    """Copies that compute in half precision; what two of them share, their copies share.

    Raises:
        UpsrError: ``dtype`` is neither bfloat16 nor float16.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        raise UpsrError(f"dtype is {name}; this method computes in float32, bfloat16 or float16")
    parameters = (p for module in modules.values() for p in module.parameters())
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to(dtype), False) for p in parameters}
    return {name: copy.deepcopy(module, memo) for name, module in modules.items()}


def save(backbone: Backbone, folder: Path, prompts: Sequence[str]) -> None:
    """Write a folder that :func:`read` reads, and diffusers; into the folder that it was read from, new prompts alone.

    Args:
        prompts: texts whose embeddings are kept.
    """
    source = backbone.prompts.folder
    folder.mkdir(parents=True, exist_ok=True)
    backbone.prompts.save(folder, prompts)
    if source is not None and source.resolve() == folder.resolve():
        return
    for name in ("unet", "vae", "scheduler"):
        getattr(backbone, name).save_pretrained(str(folder / name))
    for name in _TEXT:
        if source is not None and (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    write_index(folder)


def write_index(folder: Path) -> None:
    """Write what the folders in a folder of diffusers are."""
    components = {name: kind for name, kind in _COMPONENTS.items() if (folder / name).is_dir()}
    index = {"_class_name": PIPELINE, **components}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
