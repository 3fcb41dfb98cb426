"""One network call instead of five: a student that learns where its teacher's deterministic trajectories end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import Self

from upsr.errors import UpsrError
from upsr.methods.base import Batch, Player
from upsr.methods.build import Losses, build_losses, train_options
from upsr.methods.upsr.method import UPSR
from upsr.methods.upsr.options import DiffusionOptions, UPSROptions
from upsr.methods.upsr.training import Task, UPSRTraining
from upsr.rng import stacked


class OneStepUPSR(UPSR):
    """A UPSR that restores with one call at t = T - 1, whatever the options of its teacher say."""

    @classmethod
    def from_options(cls, opt: UPSROptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        return super().from_options(opt.model_copy(update={"diffusion": _one_step(opt)}), training=training)


class UPSRDistillation(UPSRTraining):
    """Trains a one-step UPSR on the results of a UPSR that takes all its steps.

    The deterministic sampler makes the result a function of the initial noise, and a student can learn this function: the
    consistency to the teacher's trajectory of SinSR (Wang et al., CVPR 2024), without its terms for the inverse and the ground
    truth. Student and teacher both begin with ``path.pretrain_network_g``. What comes out is tested as a UPSR with
    ``diffusion.one_step: true``.

    Args:
        teacher: makes the images that the losses compare with; frozen.
    """

    METHOD = OneStepUPSR

    def __init__(self, method: UPSR, losses: Losses, player: Player, teacher: UPSR) -> None:
        super().__init__(method, losses, player)
        self.teacher = teacher.requires_grad_(False).eval()

    @classmethod
    def from_options(cls, opt: UPSROptions) -> Self:
        """See :meth:`Training.from_options`.

        Raises:
            UpsrError: the teacher's sampler draws, so that its result is no function of the initial noise.
        """
        method = OneStepUPSR.from_options(opt, training=True)
        player = Player(method.denoiser, train_options(opt).optim_g)
        return cls(method, build_losses(opt), player, UPSR.from_options(opt).for_inference(torch.float32))

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def task(self, batch: Batch, generators: Sequence[torch.Generator]) -> Task:
        """The teacher's result for the same noise; the ground truth is not used."""
        method, lq = self.method, batch["lq"]
        cond = method.condition(lq)
        noise = method.codec.encode(stacked("randn", cond.y.shape[1:], generators)).to(lq)
        with torch.no_grad():
            target = self.teacher.generate(cond, lambda k: noise).clamp(-1, 1)
        t = torch.full((len(lq),), method.sampling.timesteps[0], device=lq.device)
        x_t = method.process_of(cond).prior(t, noise)
        return Task(method.schedule.scale_input(x_t, t), t, cond, target)


def _one_step(opt: UPSROptions) -> DiffusionOptions:
    """The student's options of the diffusion."""
    if opt.diffusion.sampler.type != "ddim":
        raise UpsrError(
            f"diffusion.sampler.type: {opt.diffusion.sampler.type}; distillation learns where deterministic trajectories "
            "end, so the teacher needs ddim"
        )
    return opt.diffusion.model_copy(update={"one_step": True})
