"""Training of UPSR's denoiser (paper, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.methods.base import Batch, Player, Training
from upsr.methods.build import Losses, build_losses, train_options
from upsr.methods.upsr.method import UPSR
from upsr.methods.upsr.options import UPSROptions


class UPSRTraining(Training):
    """Pixel and perceptual loss of the denoiser's estimate, at timesteps drawn for each sample."""

    METHOD = UPSR
    method: UPSR

    def __init__(self, method: UPSR, losses: Losses, player: Player) -> None:
        super().__init__()
        self.method = method
        self.losses = losses
        self.players = {"g": player}

    @classmethod
    def from_options(cls, opt: UPSROptions) -> Self:
        """See :meth:`Training.from_options`."""
        method = UPSR.from_options(opt, training=True)
        return cls(method, build_losses(opt), Player(method.denoiser, train_options(opt).optim_g))

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """One step of Algorithm 1; see :meth:`Training.forward`."""
        method, lq, x_0 = self.method, batch["lq"], 2 * batch["gt"] - 1
        cond = method.condition(lq)
        t = self._draw_timesteps(generators).to(lq.device)
        x_t = method.schedule.q_sample(x_0, cond.y, t, weight=cond.weight, generator=generators)
        prediction = method.estimate(method.codec.encode(method.schedule.scale_input(x_t, t)), t, cond)
        return {**self.losses(prediction, x_0, generators), "by_timestep": self._by_timestep(prediction, x_0, t)}

    def convolutional(self) -> Sequence[nn.Module]:
        """The trained network and the losses'."""
        return [*super().convolutional(), self.losses]

    def refuse_crops(self, size: int, device: torch.device) -> None:
        """See :meth:`Training.refuse_crops`."""
        self.losses.refuse_crops(self.method.facts.channels, size, device)

    @torch.no_grad()
    def _by_timestep(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """(2, T): sum of the squared error over the samples at each timestep, and their number."""
        errors = (prediction.float() - target).square().mean(dim=(1, 2, 3))
        table = errors.new_zeros(2, self.method.schedule.num_timesteps)
        return table.index_add_(1, t, torch.stack([errors, torch.ones_like(errors)]))

    def _draw_timesteps(self, generators: Sequence[torch.Generator]) -> Tensor:
        low, high = self.method.trained
        return torch.cat([torch.randint(low, high, (1,), generator=g, device=g.device) for g in generators])
