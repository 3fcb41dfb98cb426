"""Pretraining of g, stage one of UPSR."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from upsr.methods.base import Batch
from upsr.methods.sr.method import SR
from upsr.methods.supervised import Prediction, Supervised


class SRTraining(Supervised):
    """Losses of the network's output on degraded pairs; its weights become the g of UPSR."""

    METHOD = SR
    TRAINED = "g"
    method: SR

    def predict(self, batch: Batch, generators: Sequence[torch.Generator]) -> Prediction:
        """See :meth:`Supervised.predict`; nothing is drawn."""
        return Prediction(2 * self.method.g(batch["lq"]) - 1, 2 * batch["gt"] - 1)
