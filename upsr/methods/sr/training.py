"""Pretraining of g, stage one of UPSR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.methods.base import Batch, Player, Training
from upsr.methods.build import Losses, build_losses, train_options
from upsr.methods.sr.method import SR
from upsr.methods.sr.options import SROptions


class SRTraining(Training):
    """Losses of the network's output on degraded pairs; its checkpoint is stage two's ``path.pretrain_network_aux``."""

    METHOD = SR
    method: SR

    def __init__(self, method: SR, losses: Losses, player: Player) -> None:
        super().__init__()
        self.method = method
        self.losses = losses
        self.players = {"g": player}

    @classmethod
    def from_options(cls, opt: SROptions) -> Self:
        """See :meth:`Training.from_options`."""
        method = SR.from_options(opt, training=True)
        return cls(method, build_losses(opt), Player(method.g, train_options(opt).optim_g))

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`; only the place of the perceptual loss is drawn."""
        return self.losses(2 * self.method.g(batch["lq"]) - 1, 2 * batch["gt"] - 1, generators)

    def convolutional(self) -> Sequence[nn.Module]:
        """The trained network and the losses'."""
        return [*super().convolutional(), self.losses]

    def refuse_crops(self, size: int, device: torch.device) -> None:
        """See :meth:`Training.refuse_crops`."""
        self.losses.refuse_crops(self.method.facts.channels, size, device)
