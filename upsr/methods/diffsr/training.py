"""Training of an unconditional diffusion model on crops of photos, for Diff-SR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from upsr.config.schema import CommonOptions
from upsr.errors import UpsrError
from upsr.methods.base import Batch, Feed, Player, StatelessFeed, Training
from upsr.methods.build import train_options
from upsr.methods.diffsr.method import DiffSR
from upsr.methods.diffsr.options import DiffSROptions
from upsr.methods.timesteps import drawn_timesteps, errors_by_tenth
from upsr.rng import stacked


class DenoisingTraining(Training):
    """Mean squared error of the network's output at timesteps drawn for each sample (DDPM's simple loss).

    Args:
        method: the denoiser of it is trained.
        player: the denoiser and its optimiser.
    """

    METHOD = DiffSR
    method: DiffSR

    def __init__(self, method: DiffSR, player: Player) -> None:
        super().__init__()
        self.method, self.players = method, {"g": player}

    @classmethod
    def from_options(cls, opt: DiffSROptions) -> Self:
        """See :meth:`Training.from_options`."""
        method = DiffSR.from_options(opt, training=True)
        return cls(method, Player(method.denoiser, train_options(opt).optim_g))

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`; of the batch only ``gt`` is read."""
        method, process = self.method, self.method.process
        with torch.no_grad(), torch.autocast(batch["gt"].device.type, enabled=False):
            x_0 = method.encode(batch["gt"])
        t = drawn_timesteps(0, process.num_timesteps, generators).to(x_0.device)
        noise = stacked("randn", x_0.shape[1:], generators).to(x_0)
        prediction = method.denoiser(process.q_sample(x_0, t, noise), t)
        target = process.target(x_0, noise, t)
        loss = F.mse_loss(prediction, target)
        by_timestep = errors_by_tenth(prediction, target, t, process.num_timesteps)
        return {"l_noise": loss, "total": loss, "tenth_by_timestep": by_timestep}

    def feed(self, opt: CommonOptions) -> Feed:
        """Crops as they are, without degradation."""
        return Crops(opt, self.method)


class Crops(StatelessFeed):
    """Feeds ground truths alone."""

    def __init__(self, opt: CommonOptions, method: DiffSR) -> None:
        self.opt, self.method = opt, method

    def bind(self, dataset: Any, device: torch.device) -> None:
        """See :meth:`Feed.bind`."""
        dataset.bind(self.opt.manual_seed, self.opt.degradation)
        multiple, channels = self.method.facts.canvas[1], self.method.facts.channels
        if dataset.gt_size % multiple:
            raise UpsrError(
                f"datasets.train.gt_size: {dataset.gt_size} is no multiple of {multiple}, which the network needs"
            )
        if dataset.channels != channels:
            raise UpsrError(f"datasets.train.channels: {dataset.channels}, but the network has {channels}")

    def batch(self, raw: Mapping[str, Any], iteration: int, slots: Sequence[int]) -> tuple[Batch, list[str]]:
        """See :meth:`Feed.batch`."""
        return {"gt": raw["gt"].float() / 255}, list(raw["key"])
