"""Training of ResShift: the mean squared error of the latent, and in version 3 LPIPS of the decoded image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.compat import LOSS_REGISTRY
from upsr.config.components import build
from upsr.methods.base import Batch, Player, Training
from upsr.methods.build import train_options
from upsr.methods.resshift.method import ResShift
from upsr.methods.resshift.options import ResShiftOptions, ResShiftTrainOptions
from upsr.methods.timesteps import drawn_timesteps, errors_by_timestep
from upsr.rng import stacked


class ResShiftTraining(Training):
    """Estimates of the clean latent, at timesteps drawn for each sample.

    Args:
        method: the denoiser of it is trained.
        opt: optimiser and losses.
    """

    METHOD = ResShift
    method: ResShift

    def __init__(self, method: ResShift, opt: ResShiftTrainOptions) -> None:
        super().__init__()
        self.method, self.players = method, {"g": Player(method.denoiser, opt.optim_g)}
        self.latent = build(LOSS_REGISTRY, opt.latent_opt)
        self.perceptual = build(LOSS_REGISTRY, opt.perceptual_opt) if opt.perceptual_opt else None

    @classmethod
    def from_options(cls, opt: ResShiftOptions) -> Self:
        """See :meth:`Training.from_options`."""
        return cls(cls.METHOD.from_options(opt, training=True), train_options(opt))

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`."""
        method = self.method
        y, z_0 = self.latents(batch)
        t = drawn_timesteps(*method.trained, generators).to(y.device)
        z_t = method.schedule.q_sample(z_0, y, t, noise=self.noise(z_0, generators))
        prediction = method.denoiser_given(2 * batch["lq"] - 1)(z_t, t)
        losses = {"l_latent": self.latent(prediction, z_0)}
        if self.perceptual is not None:
            losses["l_percep"] = self.perceptual(method.codec.decode(prediction), 2 * batch["gt"] - 1)
        by_timestep = errors_by_timestep(prediction, z_0, t, method.schedule.num_timesteps)
        return {**losses, "total": torch.stack(list(losses.values())).sum(), "by_timestep": by_timestep}

    def latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The latents of the upsampled LR image and of the ground truth, before quantisation, in float32."""
        images: list[Any] = [self.method.upsample(batch["lq"]), 2 * batch["gt"] - 1]
        with torch.no_grad(), torch.autocast(images[0].device.type, enabled=False):
            y, z_0 = (self.method.codec.encode(image.float()) for image in images)
        return y, z_0

    def noise(self, like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Standard normal, of each sample's generator."""
        return stacked("randn", like.shape[1:], generators).to(like)

    def convolutional(self) -> Sequence[nn.Module]:
        """The denoiser, the autoencoder and the perceptual loss."""
        others = [self.method.codec, *([self.perceptual] if self.perceptual is not None else [])]
        return [*super().convolutional(), *others]
