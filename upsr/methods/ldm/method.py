"""LDM-SR, a baseline of the paper, on the networks and scheduler of diffusers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.config.schema import CommonOptions
from upsr.diffusion.sampling import Noise
from upsr.errors import UpsrError
from upsr.methods.base import Facts, Method, Watch
from upsr.tiling.tiles import TilePlan


class LatentDiffusionSR(Method):
    """Denoises a latent of the LR image's size, seeing the LR image, and decodes it to an image of 4 times the size.

    Args:
        unet: diffusers' UNet2DModel, called as (latent and LR image, t).
        autoencoder: diffusers' VQModel.
        scheduler: with "leading" spacing, which is its default; diffusers' DDIM goes wrong with others.
        steps: network calls.
    """

    def __init__(self, unet: Any, autoencoder: Any, scheduler: Any, steps: int) -> None:
        super().__init__()
        self.unet = unet
        self.autoencoder = autoencoder
        self.scheduler = scheduler
        self.steps = steps
        scale = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        multiple = 2 ** (len(unet.config.block_out_channels) - 1)
        self.facts = Facts(scale, 3, multiple, (unet.config.out_channels, scale))

    @classmethod
    def from_options(cls, opt: CommonOptions, *, training: bool = False) -> Self:
        """Refuses: the networks come from a folder of diffusers."""
        raise UpsrError(
            "LDM-SR is measured from a folder of diffusers (options/methods/LDM-15.yml); it has no option file"
        )

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`; images are not cut."""
        latent = noise(0) * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(self.steps, device=lq.device)
        for t in self.scheduler.timesteps:
            seen = self.scheduler.scale_model_input(torch.cat([latent, 2 * lq - 1], dim=1), t)
            latent = self.scheduler.step(self.unet(seen, t).sample, t, latent, eta=0.0).prev_sample
        return (self.autoencoder.decode(latent).sample.clamp(-1, 1) + 1) / 2
