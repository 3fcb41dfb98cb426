"""One network call instead of five: a student that learns where its teacher's deterministic trajectories end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.compat import MODEL_REGISTRY
from upsr.config.schema import Options
from upsr.errors import UpsrError
from upsr.methods.base import Purpose
from upsr.methods.upsr.method import UPSRModel
from upsr.rng import stacked


@MODEL_REGISTRY.register()
class UPSRDistillationModel(UPSRModel):
    """A UPSR that restores with one call at t = T - 1, trained on the results of a UPSR that takes all its steps.

    The deterministic sampler makes the result a function of the initial noise, and a student can learn this function: the
    consistency to the teacher's trajectory of SinSR (Wang et al., CVPR 2024), without its terms for the inverse and the ground
    truth. Student and teacher both begin with ``path.pretrain_network_g``. What comes out is tested as a UPSRModel with
    ``diffusion.one_step: true``.

    Attributes:
        teacher: makes the images that the losses compare with; frozen, and absent in a model built for testing.
    """

    teacher: UPSRModel | None

    def __init__(self, *networks: Any, **settings: Any) -> None:
        super().__init__(*networks, **settings)
        self.register_module("teacher", None)

    @classmethod
    def from_options(cls, opt: Options, purpose: Purpose) -> Self:
        """See :meth:`RestorationModel.from_options`.

        Raises:
            UpsrError: the teacher's sampler draws, so that its result is no function of the initial noise.
        """
        if opt.diffusion.sampler.type != "ddim":
            raise UpsrError(
                f"diffusion.sampler.type: {opt.diffusion.sampler.type}; distillation learns where deterministic trajectories "
                "end, so the teacher needs ddim"
            )
        one_step = opt.diffusion.model_copy(update={"one_step": True})
        student = super().from_options(opt.model_copy(update={"diffusion": one_step}), purpose)
        if purpose == "train":
            student.teacher = UPSRModel.from_options(opt, "test").requires_grad_(False)
        return student

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, lq: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The student's distance from the teacher, for the same noise; ``gt`` is not looked at."""
        if self.losses is None or self.teacher is None:
            raise RuntimeError("the model was built for testing and has neither losses nor a teacher")
        cond = self.condition(lq)
        noise = self.codec.encode(stacked("randn", cond.y.shape[1:], generators)).to(lq)
        with torch.no_grad():
            target = self.teacher.generate(cond, lambda k: noise).clamp(-1, 1)
        t = torch.full((len(lq),), self.timesteps[0], device=lq.device)
        weight = self.codec.encode(cond.weight)
        x_t = self.process.prior_sample(self.codec.encode(cond.y), t, weight=weight, noise=noise)
        prediction = self.estimate(self.process.scale_input(x_t, t), t, cond)
        return {**self.losses(prediction, target, generators), "by_timestep": self._by_timestep(prediction, target, t)}
