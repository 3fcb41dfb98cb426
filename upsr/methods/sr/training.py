"""Pretraining of g, stage one of UPSR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upsr.methods.base import Batch
from upsr.methods.sr.method import SR
from upsr.methods.supervised import Supervised


class SRTraining(Supervised):
    """Losses of the network's output on degraded pairs; its weights become the g of UPSR."""

    METHOD = SR
    TRAINED = "g"
    method: SR

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`; only the place of the perceptual loss is drawn."""
        return self.losses(2 * self.method.g(batch["lq"]) - 1, 2 * batch["gt"] - 1, generators)
