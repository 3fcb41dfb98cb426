"""One network call instead of five: a student that learns where its teacher's deterministic trajectories end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.errors import UpsrError
from upsr.methods.base import Batch, Player
from upsr.methods.build import Losses, build_losses, train_options
from upsr.methods.critic import Critic
from upsr.methods.options import ConsistencyOptions
from upsr.methods.residual_shift import consistency, consistency_losses
from upsr.methods.supervised import Prediction
from upsr.methods.timesteps import errors_by_timestep
from upsr.methods.upsr.method import UPSR
from upsr.methods.upsr.options import DiffusionOptions, UPSROptions
from upsr.methods.upsr.training import UPSRTraining
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
    consistency of SinSR (Wang et al., CVPR 2024). Its terms for the inverse and the ground truth are options
    (``train.consistency``). Student and teacher both begin with ``path.pretrain_network_g``. The result is tested as a UPSR with
    ``diffusion.one_step: true``.

    Args:
        teacher: makes the images that the losses compare with; frozen.
        weights: of the further terms.
    """

    METHOD = OneStepUPSR

    def __init__(
        self,
        method: UPSR,
        losses: Losses,
        player: Player,
        teacher: UPSR,
        weights: ConsistencyOptions,
        critic: Critic | None = None,
    ) -> None:
        super().__init__(method, losses, player, critic)
        self.teacher, self.weights = teacher.requires_grad_(False).eval(), weights

    @classmethod
    def from_options(cls, opt: UPSROptions) -> Self:
        """See :meth:`Training.from_options`.

        Raises:
            UpsrError: the teacher's sampler draws, so that its result is no function of the initial noise.
        """
        method = OneStepUPSR.from_options(opt, training=True)
        train = train_options(opt)
        teacher = UPSR.from_options(opt).for_inference(torch.float32)
        player, critic = Player(method.denoiser, train.optim_g), Critic.from_options(opt)
        return cls(method, build_losses(opt), player, teacher, train.consistency, critic)

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def predict(self, batch: Batch, generators: Sequence[torch.Generator]) -> Prediction:
        """Compared with the teacher's result for the same noise; see :meth:`Supervised.predict`."""
        method, lq = self.method, batch["lq"]
        schedule, encode, decode = method.schedule, method.codec.encode, method.codec.decode
        cond = method.condition(lq)
        noise = encode(stacked("randn", cond.y.shape[1:], generators)).to(lq)
        with torch.no_grad():
            x_0 = self.teacher.generate(cond, lambda k: noise).clamp(-1, 1)
        last = schedule.num_timesteps - 1
        t = torch.full((len(lq),), last, device=lq.device)

        def student(state: Tensor, label: int) -> Tensor:
            return encode(method.estimate(schedule.scale_input(state, t), torch.full_like(t, label), cond))

        start = method.process_of(cond).prior(t, noise)
        pairs = consistency(student, start, encode(x_0), encode(2 * batch["gt"] - 1), last, self.weights)
        prediction = decode(pairs["teacher"][0])
        by_timestep = errors_by_timestep(prediction, x_0, t, last + 1)
        return Prediction(prediction, x_0, consistency_losses(pairs, self.weights), {"by_timestep": by_timestep})


def _one_step(opt: UPSROptions) -> DiffusionOptions:
    """The student's options of the diffusion."""
    if opt.diffusion.sampler.type != "ddim":
        raise UpsrError(
            f"diffusion.sampler.type: {opt.diffusion.sampler.type}; distillation learns where deterministic trajectories "
            "end, so the teacher needs ddim"
        )
    return opt.diffusion.model_copy(update={"one_step": True})
