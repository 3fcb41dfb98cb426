"""The smallest networks and photos-like images that show what the full ones do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from upsr.archs import UNetModelSwin
from upsr.diffusion import ResidualShift, exponential_sqrt_etas
from upsr.methods.upsr.method import UPSR, Sampling
from upsr.methods.upsr.uncertainty import UncertaintyWeight

UNET: dict[str, Any] = {
    "image_size": 16,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [16],  # the middle attends at 8
    "swin_embed_dim": 32,
    "num_feat": 16,
}
ATD: dict[str, Any] = {
    "embed_dim": 16,
    "depths": [2],
    "num_heads": 2,
    "window_size": 8,
    "category_size": 32,
    "num_tokens": 8,
    "reducted_dim": 4,
    "convffn_kernel_size": 3,
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An (H, W, 3) uint8 image with flat parts, edges and texture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = 128 + 60 * np.stack([np.sin(rows / (5 + c) + seed) * np.cos(columns / (7 - c)) for c in range(3)], axis=-1)
    image[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 255, 3)
    image[height // 2 :, width // 2 :] += rng.normal(0, 20, (height - height // 2, width - width // 2, 1))
    return image.clip(0, 255).astype(np.uint8)


def save_pictures(folder: Path, count: int, size: int = 96, suffix: str = ".png") -> Path:
    """A folder of pictures of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(picture(size + 5 * i, size + 3 * i, i)).save(folder / f"photo {i}{suffix}")
    return folder


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """:func:`picture` as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(picture(height, width, seed)).permute(2, 0, 1)[None].float() / 255


def random_weights(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that no initialiser leaves at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def model(g: torch.nn.Module, unet: dict[str, Any] = UNET) -> UPSR:
    """A diffusion model of five steps with random weights, for restoring."""
    return UPSR(
        random_weights(UNetModelSwin(**unet)),
        g,
        ResidualShift(exponential_sqrt_etas(5, kappa=2.0), 2.0),
        Sampling((4, 3, 2, 1, 0), UncertaintyWeight(0.05, 0.4)),
        sr_condition=True,
        residual=True,
        trained=(0, 5),
    ).eval()


def ldm_options(folder: Path, **schedule: Any) -> dict[str, Any]:
    """Options of LDM-SR on networks of a few layers, which are written to a folder of diffusers unless it is there."""
    if not folder.is_dir():
        diffusers = pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")
        blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = diffusers.UNet2DModel(
                in_channels=6, out_channels=3, block_out_channels=(16, 16), norm_num_groups=8, **blocks
            )
            vqvae = diffusers.VQModel(
                down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
                block_out_channels=(8, 8, 16), latent_channels=3, num_vq_embeddings=32, norm_num_groups=8,
            )  # fmt: skip
        scheduler = diffusers.DDIMScheduler(**{"clip_sample": False, **schedule})
        diffusers.LDMSuperResolutionPipeline(vqvae=vqvae, unet=unet, scheduler=scheduler).save_pretrained(folder)
    return {"method": "ldm", "backbone": str(folder), "steps": 3}
