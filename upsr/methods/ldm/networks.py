"""The networks and the noise schedule of LDM-SR, over diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upsr.archs.diffusers_library import diffusers
from upsr.errors import UpsrError
from upsr.weights.diffusers_folder import class_in, read_network, read_scheduler
from upsr.weights.hub import folder_of

PIPELINE = "LDMSuperResolutionPipeline"

_UNET: dict[str, Any] = {
    "in_channels": 6,
    "out_channels": 3,
    "block_out_channels": (160, 320, 320, 640),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 32,
}
_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (128, 256, 512),
    "layers_per_block": 2,
    "latent_channels": 3,
    "num_vq_embeddings": 8192,
}
_SCHEDULE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0155,
    "clip_sample": False,
}

Networks = tuple[Any, Any, Any]
"""diffusers' UNet2DModel, VQModel and DDPMScheduler; of the last only the numbers are used."""


def read(backbone: str) -> Networks:
    """The networks and the schedule of a folder or a repository.

    Raises:
        UpsrError: there is none, it is of another pipeline, or damaged.
    """
    folder = folder_of(backbone)
    if class_in(folder) != PIPELINE:
        raise UpsrError(f"backbone: {folder} is no folder of diffusers' {PIPELINE} (model_index.json)")
    unet, autoencoder = read_network("UNet2DModel", folder / "unet"), read_network("VQModel", folder / "vqvae")
    return unet, autoencoder, read_scheduler(folder / "scheduler")


def published() -> Networks:
    """The published networks, of 113.62 M and 55.32 M parameters, with random weights."""
    library = diffusers()
    return library.UNet2DModel(**_UNET), library.VQModel(**_AUTOENCODER), library.DDPMScheduler(**_SCHEDULE)


def save(networks: Networks, folder: Path) -> None:
    """Write a folder that :func:`read` reads, and diffusers."""
    library = diffusers()
    unet, autoencoder, scheduler = networks
    ddim = library.DDIMScheduler.from_config(scheduler.config)
    library.LDMSuperResolutionPipeline(vqvae=autoencoder, unet=unet, scheduler=ddim).save_pretrained(str(folder))
