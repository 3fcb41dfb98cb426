"""SinSR (Wang et al., CVPR 2024): one network call in place of ResShift's 15."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.accelerate import accelerated
from upsr.archs import ResShiftUNet
from upsr.diffusion import sample
from upsr.diffusion.sampling import repeated
from upsr.methods.base import Batch
from upsr.methods.build import build_network, load_weights, train_options
from upsr.methods.residual_shift import consistency, consistency_losses
from upsr.methods.resshift.method import ResShift
from upsr.methods.resshift.options import ResShiftOptions, ResShiftTrainOptions
from upsr.methods.resshift.training import ResShiftTraining
from upsr.methods.timesteps import errors_by_timestep


class SinSR(ResShift):
    """A ResShift that restores with one call at t = T - 1, whatever the options of its teacher say."""

    @classmethod
    def from_options(cls, opt: ResShiftOptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        diffusion = opt.diffusion.model_copy(update={"one_step": True})
        return super().from_options(opt.model_copy(update={"diffusion": diffusion}), training=training)


class SinSRTraining(ResShiftTraining):
    """Trains a student on the ends of its teacher's deterministic trajectories, on the way back, and on the ground truth.

    Teacher and student both begin with ``path.pretrain_network_g``. The loss of the teacher's ends is ``train.latent_opt``, the
    others are mean squared errors with the weights of ``train.consistency``.

    Args:
        teacher: denoiser; frozen.
        timesteps: that the teacher visits.
    """

    METHOD = SinSR

    def __init__(
        self, method: SinSR, opt: ResShiftTrainOptions, teacher: ResShiftUNet, timesteps: Sequence[int]
    ) -> None:
        super().__init__(method, opt)
        self.teacher = teacher.requires_grad_(False).eval()
        self.timesteps = list(timesteps)
        self.weights = opt.consistency

    @classmethod
    def from_options(cls, opt: ResShiftOptions) -> Self:
        """See :meth:`Training.from_options`."""
        teacher = build_network(opt.network_g, "network_g", contract=ResShiftUNet)
        load_weights(teacher, opt, "network_g", "denoiser")
        timesteps = range(opt.diffusion.steps - 1, -1, -1)
        return cls(SinSR.from_options(opt, training=True), train_options(opt), accelerated(teacher), timesteps)

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`."""
        method, lq = self.method, 2 * batch["lq"] - 1
        schedule = method.schedule
        y, z_gt = self.latents(batch)
        noise = self.noise(z_gt, generators)
        timesteps = repeated(self.timesteps, len(y), y.device)
        t = timesteps[:, 0]
        process = schedule.between(y, sampler="ddim")
        start = process.prior(t, noise)
        with torch.no_grad():
            x_0 = sample(
                start,
                lambda x, t: self.teacher(schedule.scale_input(x, t), t, lq),
                process.step,
                timesteps,
                lambda k: noise,
            ).float()

        def student(state: Tensor, label: int) -> Tensor:
            return method.denoiser(schedule.scale_input(state, t), torch.full_like(t, label), lq)

        pairs = consistency(student, start, x_0, z_gt, self.timesteps[0], self.weights)
        prediction = pairs["teacher"][0]
        losses = {"l_latent": self.latent(prediction, x_0), **consistency_losses(pairs, self.weights)}
        if self.perceptual is not None:
            losses["l_percep"] = self.perceptual(method.codec.decode(prediction), method.codec.decode(x_0).clamp(-1, 1))
        by_timestep = errors_by_timestep(prediction, x_0, t, schedule.num_timesteps)
        return {**losses, "total": torch.stack(list(losses.values())).sum(), "by_timestep": by_timestep}
