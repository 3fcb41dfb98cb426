"""LDM-SR, a baseline of the paper, on the networks and scheduler of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upsr.config.schema import Options
from upsr.diffusion.sampling import NoiseSource
from upsr.methods.base import Observer, Purpose, RestorationModel


class LatentDiffusionSR(RestorationModel):
    """Denoises a latent of the LR image's size, seeing the LR image, and decodes it to an image of 4 times the size.

    Args:
        unet: diffusers' UNet2DModel, called as (latent and LR image, t).
        autoencoder: diffusers' VQModel.
        scheduler: with "leading" spacing, which is its default; diffusers' DDIM goes wrong with others.
        steps: network calls.
    """

    draws = True

    def __init__(self, unet: Any, autoencoder: Any, scheduler: Any, steps: int) -> None:
        super().__init__()
        self.network_g = unet
        self.network_aux = autoencoder
        self.scheduler = scheduler
        self.steps = steps
        self.latent_channels = unet.config.out_channels
        self.scale = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self.channels = 3
        self.losses = None
        self.size_multiple = 2 ** (len(unet.config.block_out_channels) - 1)

    @classmethod
    def from_options(cls, opt: Options, purpose: Purpose) -> LatentDiffusionSR:
        """It is built from a folder, not from an option file."""
        raise NotImplementedError("LDM-SR is a baseline of the evaluation")

    def forward(self, lq: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """It is not trained here."""
        raise NotImplementedError("LDM-SR is not trained here")

    def restore(self, lq: Tensor, noise: NoiseSource, observe: Observer | None = None) -> Tensor:
        """See :meth:`RestorationModel.restore`."""
        latent = noise(0)[:, : self.latent_channels] * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(self.steps, device=lq.device)
        for t in self.scheduler.timesteps:
            seen = self.scheduler.scale_model_input(torch.cat([latent, 2 * lq - 1], dim=1), t)
            latent = self.scheduler.step(self.network_g(seen, t).sample, t, latent, eta=0.0).prev_sample
        return (self.network_aux.decode(latent).sample.clamp(-1, 1) + 1) / 2
