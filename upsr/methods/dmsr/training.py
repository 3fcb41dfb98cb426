"""Phase dm of DM-SR: the encoder learns under the frozen denoiser, against a discriminator (Sec. 3.4 and 3.5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from upsr.compat import LOSS_REGISTRY
from upsr.config.components import build
from upsr.errors import UpsrError
from upsr.methods.base import Batch, Player, Training
from upsr.methods.build import loss_problem, train_options
from upsr.methods.dmsr.adversarial import LOSSES
from upsr.methods.dmsr.discriminator import ControlDiscriminator
from upsr.methods.dmsr.method import DMSR
from upsr.methods.dmsr.options import DMSROptions, DMSRTrainOptions
from upsr.methods.latent_canvas import upsampled
from upsr.methods.timesteps import drawn_timesteps
from upsr.rng import stacked


class DistributionMatching(Training):
    """The losses of the image part Z and of the noise part of the encoder's output, each with its factor (Eq. 9).

    The denoiser is called once with gradients, twice without for the distribution matching loss (as one batch), and once for the
    noise loss. A loss whose factor is 0 is not computed.

    Args:
        method: its encoder is trained; all else is frozen.
    """

    METHOD = DMSR
    method: DMSR

    def __init__(self, method: DMSR, opt: DMSRTrainOptions) -> None:
        super().__init__()
        self.method, self.opt = method.requires_grad_(False), opt
        self.perceptual = build(LOSS_REGISTRY, opt.perceptual_opt) if opt.perceptual_opt else None
        self.players = {"g": Player(method.encoder.requires_grad_(True), opt.optim_g)}
        self.register_buffer("context", method.context(), persistent=False)
        if opt.adversarial.weight:
            channels, width = method.vae.config.latent_channels, method.unet.config.cross_attention_dim
            self.discriminator = ControlDiscriminator(channels, width, **opt.discriminator.model_dump())
            self.of_discriminator, self.of_encoder = LOSSES[opt.adversarial.loss]
            self.players["d"] = Player(self.discriminator, opt.optim_d)
        if opt.activation_checkpointing:
            method.unet.enable_gradient_checkpointing()
            method.vae.enable_gradient_checkpointing()

    @classmethod
    def from_options(cls, opt: DMSROptions) -> Self:
        """See :meth:`Training.from_options`."""
        if opt.timestep is None and opt.path.pretrain_network_t is None and not opt.path.allow_random_weights:
            raise UpsrError(
                "path.pretrain_network_t: phase dm needs the trained timestep estimator; train it with phase: timestep, or give "
                "every image one timestep with the key timestep"
            )
        return cls(DMSR.from_options(opt, training=True), train_options(opt))

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`."""
        return self._discriminated(batch) if player == "d" else self._encoded(batch, generators)

    def _encoded(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        method, opt, context = self.method, self.opt, self.get_buffer("context")
        gt = 2 * batch["gt"] - 1
        x_lr = upsampled(batch["lq"], gt.shape[-2:])
        with torch.no_grad(), torch.autocast(gt.device.type, enabled=False):
            t, z_gt = method.timestep_of(x_lr), method.clean_latent(gt)
        x_t = method.encode(x_lr, t)
        noise = method.noise_in(x_t, t, context)
        z = method.image_in(x_t, t, noise)
        batch.update(x_lr=x_lr, z_gt=z_gt, z=z.detach())
        losses = {}
        if opt.l1:
            losses["l_1"] = opt.l1 * F.l1_loss(z, z_gt)
        if self.perceptual is not None:
            pairs = (method.decode(z), gt) if opt.perceptual_space == "image" else (z, z_gt)
            losses["l_percep"] = self.perceptual(*pairs)
        if opt.adversarial.weight:
            factor = opt.adversarial.weight * (batch["iteration"] >= opt.adversarial.start).float().mean()
            losses["l_gan"] = factor * self.of_encoder(self.discriminator(self._bounded(z), x_lr, context))
        if opt.distribution_matching.weight:
            losses["l_dm"] = opt.distribution_matching.weight * self.matching_loss(z, z_gt, context, generators)
        if opt.noise.weight:
            losses["l_noise"] = opt.noise.weight * self.noise_loss(noise, z_gt, t, context)
        return {**losses, "t": t.float().mean(), "total": sum(losses.values(), z.new_zeros(()))}

    def matching_loss(self, z: Tensor, z_gt: Tensor, context: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The loss whose gradient is the difference of the denoiser's outputs at noisy Z and noisy ground truth (Eq. 6, 7).

        Its value says nothing: it is the mean product of that difference and Z.
        """
        own = self.opt.distribution_matching
        t = drawn_timesteps(own.low, own.high + 1, generators).to(z.device)
        noise = stacked("randn", z.shape[1:], generators).to(z)
        with torch.no_grad():
            noisy = torch.cat([self.method.process.q_sample(latent, t, noise) for latent in (z, z_gt)])
            of_z, of_gt = self.method.noise_in(noisy, t.repeat(2), context).chunk(2)
        return ((of_z - of_gt) * z).mean()

    def noise_loss(self, noise: Tensor, z_gt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Mean squared difference of the noise part and the noise that the denoiser finds in z_gt under it.

        The printed Eq. 8, differentiated by the noise part, would enlarge the difference; the text asks for the contrary.
        """
        with torch.set_grad_enabled(self.opt.noise.form == "full"):
            optimal = self.method.noise_in(self.method.process.q_sample(z_gt, t, noise), t, context)
        return F.mse_loss(noise, optimal)

    def _discriminated(self, batch: Batch) -> dict[str, Tensor]:
        x_lr, context = batch["x_lr"], self.get_buffer("context")
        real = self.discriminator(batch["z_gt"], x_lr, context)
        fake = self.discriminator(self._bounded(batch["z"]), x_lr, context)
        loss = self.of_discriminator(real, fake)
        return {"l_d": loss, "real": real.mean().detach(), "fake": fake.mean().detach(), "total": loss}

    def _bounded(self, z: Tensor) -> Tensor:
        bound = self.opt.adversarial.clamp
        return z if bound is None else z.clamp(-bound, bound)

    def convolutional(self) -> Sequence[nn.Module]:
        """All networks."""
        return [part for part in (self.method, self.perceptual, getattr(self, "discriminator", None)) if part]

    def refuse_crops(self, size: int, device: torch.device) -> None:
        """See :meth:`Training.refuse_crops`."""
        cell = self.method.backbone.cell
        if size % cell:
            raise UpsrError(f"datasets.train.gt_size: {size} is no multiple of {cell}, a cell of the latent")
        if self.perceptual is None:
            return
        space, channels = self.opt.perceptual_space, self.method.vae.config.latent_channels
        shape = (1, 3, size, size) if space == "image" else (1, channels, size // cell, size // cell)
        seen, perceptual = torch.zeros(shape, device=device), self.perceptual
        if (problem := loss_problem(lambda: perceptual(seen, seen))) is not None:
            raise UpsrError(
                f"train.perceptual_opt: it cannot be computed of {shape} ({problem}), which perceptual_space: {space} gives; "
                "LPIPSLoss takes images, LatentLPIPSLoss latents"
            )
