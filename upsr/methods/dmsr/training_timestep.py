"""Phase timestep of DM-SR: the estimator learns the distance of LR images to their ground truths (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.errors import UpsrError
from upsr.methods.base import Batch, Player, Training
from upsr.methods.build import train_options
from upsr.methods.dmsr.estimator import load_features
from upsr.methods.dmsr.method import DMSR
from upsr.methods.dmsr.options import DMSROptions, DMSRTrainOptions
from upsr.methods.dmsr.targets import distance_of, timestep_of
from upsr.methods.latent_canvas import upsampled


class TimestepTraining(Training):
    """Mean absolute error of the estimate, as a share of the bins.

    Logged beside it, in timesteps: ``rmse`` of the estimates of a batch, ``rmse_of_mean`` of its mean target in their place, and
    the targets themselves as a histogram.

    Args:
        method: its estimator is trained; all else is frozen.

    Raises:
        UpsrError: it has none.
    """

    METHOD = DMSR
    method: DMSR

    def __init__(self, method: DMSR, opt: DMSRTrainOptions) -> None:
        super().__init__()
        if method.estimator is None:
            raise UpsrError(
                "timestep: phase timestep trains the estimator, and a fixed timestep takes its place; remove the key"
            )
        self.method, self.target = method.requires_grad_(False), opt.target
        self.distance = distance_of(opt.target)
        self.players = {"t": Player(method.estimator.requires_grad_(True), opt.optim_t)}

    @classmethod
    def from_options(cls, opt: DMSROptions) -> Self:
        """See :meth:`Training.from_options`."""
        training = cls(DMSR.from_options(opt, training=True), train_options(opt))
        pretrained, estimator = opt.estimator.pretrained, training.method.estimator
        if pretrained is not None and estimator is not None and opt.path.pretrain_network_t is None:
            load_features(estimator, pretrained)
        return training

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`; nothing is drawn."""
        estimator = self.method.estimator
        assert estimator is not None
        gt = 2 * batch["gt"] - 1
        x_lr = upsampled(batch["lq"], gt.shape[-2:])
        bins = estimator.head.out_features
        with torch.no_grad(), torch.autocast(gt.device.type, enabled=False):
            target = timestep_of(self.distance(x_lr, gt).flatten(), self.target.gain, bins)
        error = estimator(x_lr) - target
        loss = error.abs().mean() / bins
        return {
            "l_t": loss,
            "rmse": error.detach().square().mean().sqrt(),
            "rmse_of_mean": target.std(correction=0),
            "target_values": target,
            "total": loss,
        }
