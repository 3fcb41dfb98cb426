"""Stage one of StableSR: the time-aware encoder and the SFT layers learn under a frozen Stable Diffusion (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from upsr.methods.base import Batch, Player, Training
from upsr.methods.build import train_options
from upsr.methods.latent_canvas import upsampled
from upsr.methods.stablesr.method import StableSR
from upsr.methods.stablesr.options import StableSROptions, StableSRTrainOptions
from upsr.methods.timesteps import drawn_timesteps, errors_by_tenth
from upsr.rng import stacked


class SFTTraining(Training):
    """Mean squared error of the U-Net's output at timesteps drawn for each sample, under the empty prompt.

    Args:
        method: its ``conditioning`` is trained.
    """

    METHOD = StableSR
    method: StableSR

    def __init__(self, method: StableSR, opt: StableSRTrainOptions) -> None:
        super().__init__()
        self.method, self.players = method, {"g": Player(method.conditioning, opt.optim_g)}
        self.no_degradation_prob = opt.no_degradation_prob
        self.register_buffer("context", method.backbone.prompts[""], persistent=False)

    @classmethod
    def from_options(cls, opt: StableSROptions) -> Self:
        """See :meth:`Training.from_options`."""
        # The fusion blocks have no part in this stage, and none in its validation.
        alone = opt.model_copy(update={"cfw": None})
        return cls(StableSR.from_options(alone, training=True), train_options(opt))

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`."""
        method = self.method
        gt = 2 * batch["gt"] - 1
        x_lr = self.sometimes_sharp(upsampled(batch["lq"], gt.shape[-2:]), gt, generators)
        with torch.no_grad(), torch.autocast(gt.device.type, enabled=False):
            z_lr, z_gt = (self._encoded(image, generators) for image in (x_lr, gt))
        t = drawn_timesteps(0, method.process.num_timesteps, generators).to(gt.device)
        noise = stacked("randn", z_gt.shape[1:], generators).to(z_gt)
        prediction, target = self.prediction(z_gt, z_lr, t, noise)
        loss = F.mse_loss(prediction, target)
        by_timestep = errors_by_tenth(prediction, target, t, method.process.num_timesteps)
        return {"l_noise": loss, "total": loss, "tenth_by_timestep": by_timestep}

    def prediction(self, z_gt: Tensor, z_lr: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The U-Net's output at z_t, and the output without error."""
        method = self.method
        z_t = method.process.q_sample(z_gt, t, noise)
        context = self.get_buffer("context").expand(len(z_gt), -1, -1)
        output = method.denoiser(z_t, t, context, method.conditioning.encoder(z_lr, t))
        return output.float(), method.process.target(z_gt, noise, t)

    def sometimes_sharp(self, x_lr: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The LR images; with a small probability, and where they are not finite, the ground truths in their places."""
        drawn = stacked("rand", (), generators).to(gt.device) < self.no_degradation_prob
        broken = ~x_lr.isfinite().flatten(1).all(dim=1)
        return torch.where((drawn | broken)[:, None, None, None], gt, x_lr)

    def convolutional(self) -> Sequence[nn.Module]:
        """The U-Net, the trained networks and the autoencoder."""
        return [self.method.denoiser, self.method.autoencoder]

    def _encoded(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        channels, cell = self.method.facts.state
        shape = (channels, image.shape[-2] // cell, image.shape[-1] // cell)
        return self.method.encode(image, stacked("randn", shape, generators).to(image))
