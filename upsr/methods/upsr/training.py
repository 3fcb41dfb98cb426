"""Training of UPSR's denoiser (paper, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upsr.methods.base import Batch
from upsr.methods.supervised import Supervised
from upsr.methods.upsr.method import UPSR


class UPSRTraining(Supervised):
    """Pixel and perceptual loss of the denoiser's estimate, at timesteps drawn for each sample."""

    METHOD = UPSR
    TRAINED = "denoiser"
    method: UPSR

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """One step of Algorithm 1; see :meth:`Training.forward`."""
        method, lq, x_0 = self.method, batch["lq"], 2 * batch["gt"] - 1
        cond = method.condition(lq)
        t = self._draw_timesteps(generators).to(lq.device)
        x_t = method.schedule.q_sample(x_0, cond.y, t, weight=cond.weight, generator=generators)
        prediction = method.estimate(method.codec.encode(method.schedule.scale_input(x_t, t)), t, cond)
        return {**self.losses(prediction, x_0, generators), "by_timestep": self._by_timestep(prediction, x_0, t)}

    @torch.no_grad()
    def _by_timestep(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """(2, T): sum of the squared error over the samples at each timestep, and their number."""
        errors = (prediction.float() - target).square().mean(dim=(1, 2, 3))
        table = errors.new_zeros(2, self.method.schedule.num_timesteps)
        return table.index_add_(1, t, torch.stack([errors, torch.ones_like(errors)]))

    def _draw_timesteps(self, generators: Sequence[torch.Generator]) -> Tensor:
        low, high = self.method.trained
        return torch.cat([torch.randint(low, high, (1,), generator=g, device=g.device) for g in generators])
