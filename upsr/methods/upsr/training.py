"""Training of UPSR's denoiser (paper, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upsr.methods.base import Batch
from upsr.methods.supervised import Prediction, Supervised
from upsr.methods.timesteps import drawn_timesteps, errors_by_timestep
from upsr.methods.upsr.method import UPSR, Condition


@dataclass(frozen=True)
class Task:
    """Input of the denoiser and the image that it has to give.

    Attributes:
        x: scaled state in the space of the codec.
        t: (B,) timesteps.
        target: (B, C, s*h, s*w) in [-1, 1].
    """

    x: Tensor
    t: Tensor
    cond: Condition
    target: Tensor


class UPSRTraining(Supervised):
    """Pixel and perceptual loss of the denoiser's estimate, at timesteps drawn for each sample."""

    METHOD = UPSR
    TRAINED = "denoiser"
    method: UPSR

    def predict(self, batch: Batch, generators: Sequence[torch.Generator]) -> Prediction:
        """One step of Algorithm 1; see :meth:`Supervised.predict`."""
        task = self.task(batch, generators)
        image = self.method.estimate(task.x, task.t, task.cond)
        by_timestep = errors_by_timestep(image, task.target, task.t, self.method.schedule.num_timesteps)
        return Prediction(image, task.target, shown={"by_timestep": by_timestep})

    def task(self, batch: Batch, generators: Sequence[torch.Generator]) -> Task:
        """The ground truths, noised at timesteps drawn for each sample."""
        method, lq, x_0 = self.method, batch["lq"], 2 * batch["gt"] - 1
        cond = method.condition(lq)
        t = drawn_timesteps(*method.trained, generators).to(lq.device)
        x_t = method.schedule.q_sample(x_0, cond.y, t, weight=cond.weight, generator=generators)
        return Task(method.codec.encode(method.schedule.scale_input(x_t, t)), t, cond, x_0)
