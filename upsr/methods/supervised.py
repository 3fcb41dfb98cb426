"""A training that compares one network's images with ground truths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import Self

from upsr.methods.base import Method, Player, Training
from upsr.methods.build import Losses, build_losses, train_options


class Supervised(Training):
    """One player, ``g``, with the losses of the section ``train``; subclasses give the forward pass.

    Attributes:
        METHOD: class of the method.
        TRAINED: name of the trained network among the method's parts.
    """

    METHOD: ClassVar[type[Method]]
    TRAINED: ClassVar[str]

    def __init__(self, method: Any, losses: Losses, player: Player) -> None:
        super().__init__()
        self.method, self.losses, self.players = method, losses, {"g": player}

    @classmethod
    def from_options(cls, opt: Any) -> Self:
        """See :meth:`Training.from_options`."""
        method = cls.METHOD.from_options(opt, training=True)
        return cls(method, build_losses(opt), Player(method.parts()[cls.TRAINED], train_options(opt).optim_g))

    def convolutional(self) -> Sequence[nn.Module]:
        """The trained network and the losses'."""
        return [*super().convolutional(), self.losses]

    def refuse_crops(self, size: int, device: torch.device) -> None:
        """See :meth:`Training.refuse_crops`."""
        self.losses.refuse_crops(self.method.facts.channels, size, device)
