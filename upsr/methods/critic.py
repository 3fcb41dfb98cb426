"""A discriminator as the second player of a supervised training."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.compat import LOSS_REGISTRY
from upsr.config.components import build
from upsr.config.schema import OptimizerOptions
from upsr.errors import UpsrError
from upsr.methods.base import Player
from upsr.methods.build import build_network, load_weights, loss_problem, train_options
from upsr.methods.options import NetworkOptions

PLAYER = "d"


class Critic(nn.Module):
    """The adversarial losses of restored images and of the discriminator (Goodfellow et al., NeurIPS 2014).

    Images are judged in the range [0, 1], as discriminators of basicsr are trained.

    Args:
        network: from (B, C, H, W) to logits of any shape, large for photos.
        loss: called as ``(logits, target_is_real, is_disc=...)``, as basicsr's GANLoss is.
        start: finished iterations from which restored images are trained against the discriminator, which learns from the first.

    Attributes:
        player: the discriminator with its optimiser; it is not averaged.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, optim: OptimizerOptions, start: int = 0) -> None:
        super().__init__()
        self.network, self.loss, self.start = network, loss, start
        self.player = Player(network, optim, averaged=False)

    @classmethod
    def from_options(cls, opt: NetworkOptions) -> Self | None:
        """``network_d`` with ``train.gan_opt``; ``None`` for a training without them.

        Raises:
            UpsrError: only one of them is given.
        """
        train = train_options(opt)
        if opt.network_d is None and train.gan_opt is None:
            return None
        if opt.network_d is None or train.gan_opt is None:
            missing, given = ("network_d", "train.gan_opt") if opt.network_d is None else ("train.gan_opt", "network_d")
            raise UpsrError(f"{missing}: it is needed beside {given}; give it, or set {given} to null")
        network = build_network(opt.network_d, "network_d")
        load_weights(network, opt, "network_d", "discriminator", optional=True)
        return cls(network, build(LOSS_REGISTRY, train.gan_opt), train.optim_d, train.gan_start)

    def against(self, restored: Tensor, batch: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of restored images, (B, C, H, W) in about [-1, 1]; they are left in the batch for the discriminator."""
        batch["restored"] = restored.detach()
        started = (batch["iteration"] >= self.start).float().mean()
        logits = self.network((restored + 1) / 2).float()
        return {"l_gan": started * self.loss(logits, True, is_disc=False)}

    def judging(self, batch: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the discriminator for what :meth:`against` left, and the mean logits.

        Real images are ``batch["photo"]``, in [0, 1], or where there are none ``batch["gt"]``.
        """
        real = self.network(batch.get("photo", batch["gt"])).float()
        fake = self.network((batch["restored"] + 1) / 2).float()
        loss = (self.loss(real, True, is_disc=True) + self.loss(fake, False, is_disc=True)) / 2
        return {"l_d": loss, "real": real.mean().detach(), "fake": fake.mean().detach(), "total": loss}

    def refuse_crops(self, channels: int, size: int, device: torch.device) -> None:
        """Raise UpsrError if the discriminator cannot judge images of (channels, size, size)."""
        image = torch.zeros(1, channels, size, size, device=device)
        problem = loss_problem(lambda: self.loss(self.network(image), True, is_disc=False))
        if problem is not None:
            raise UpsrError(
                f"network_d, train.gan_opt: they cannot judge crops of {channels} x {size} x {size}: {problem}"
            )
