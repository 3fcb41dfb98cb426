"""A training that compares one network's images with ground truths."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.methods.base import Batch, Method, Player, Training
from upsr.methods.build import Losses, build_losses, train_options
from upsr.methods.critic import PLAYER, Critic


@dataclass(frozen=True)
class Prediction:
    """Images that a network has made, and what they are compared with.

    Attributes:
        image, target: (B, C, H, W) in about [-1, 1].
        losses: further ones, weighted.
        shown: what is reported beside the losses, as :meth:`Training.forward` says.
    """

    image: Tensor
    target: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    shown: Mapping[str, Tensor] = field(default_factory=dict)


class Supervised(Training):
    """Player ``g`` with the losses of the section ``train``, and player ``d`` where a discriminator judges its images.

    Attributes:
        METHOD: class of the method.
        TRAINED: name of the trained network among the method's parts.
    """

    METHOD: ClassVar[type[Method]]
    TRAINED: ClassVar[str]

    def __init__(self, method: Any, losses: Losses, player: Player, critic: Critic | None = None) -> None:
        super().__init__()
        self.method, self.losses, self.critic = method, losses, critic
        self.players = {"g": player, **({} if critic is None else {PLAYER: critic.player})}

    @classmethod
    def from_options(cls, opt: Any) -> Self:
        """See :meth:`Training.from_options`."""
        method = cls.METHOD.from_options(opt, training=True)
        player = Player(method.parts()[cls.TRAINED], train_options(opt).optim_g)
        return cls(method, build_losses(opt), player, Critic.from_options(opt))

    @abstractmethod
    def predict(self, batch: Batch, generators: Sequence[torch.Generator]) -> Prediction:
        """The trained network's images of a batch; the generators are the only source of randomness."""

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`."""
        if self.critic is not None and player == PLAYER:
            return self.critic.judging(batch)
        made = self.predict(batch, generators)
        losses = self.losses(made.image, made.target, generators)
        more = {**made.losses, **({} if self.critic is None else self.critic.against(made.image, batch))}
        return {**losses, **more, "total": sum(more.values(), losses["total"]), **made.shown}

    def convolutional(self) -> Sequence[nn.Module]:
        """The trained networks and the losses'."""
        return [*super().convolutional(), self.losses]

    def refuse_crops(self, size: int, device: torch.device) -> None:
        """See :meth:`Training.refuse_crops`."""
        for judge in (self.losses, self.critic):
            if judge is not None:
                judge.refuse_crops(self.method.facts.channels, size, device)
