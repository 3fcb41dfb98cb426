"""A method of a user's own, as docs/extending.md describes it: no file of the package knows of it."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs.contracts import SRNetwork
from upsr.methods import Facts, Method, Player, Training
from upsr.methods.build import build_losses, build_network, load_weights
from upsr.methods.options import NetworkOptions
from upsr.metrics.base import Metric


class ToyNetwork(SRNetwork):
    """Bicubic upsampling and a correction of it, (B, 3, h, w) to (B, 3, 2h, 2w)."""

    scale, channels = 2, 3

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.correction = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, lq: Tensor) -> Tensor:
        """The image in [0, 1], not clipped."""
        upsampled = F.interpolate(lq, scale_factor=2, mode="bicubic")
        return upsampled + self.correction(upsampled)


class ToyLoss(nn.Module):
    """Charbonnier's loss."""

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """A scalar, of images in [-1, 1]."""
        return ((prediction - target).square() + self.eps**2).sqrt().mean()


class ToyMetric(Metric):
    """Mean absolute error, of 255 levels."""

    needs_reference, higher_is_better, version = True, False, "toy 1"

    def to(self, device):
        """Unchanged."""
        return self

    def __call__(self, sr, gt):
        """See :class:`Metric`."""
        return float(255 * (sr - gt).abs().mean())


class ToyMethod(Method):
    """Adds a little of the noise to what the network gives."""

    Options = NetworkOptions
    amount = 0.01
    weight_keys: ClassVar = {"network": "pretrain_network_g"}

    def __init__(self, network: SRNetwork) -> None:
        super().__init__()
        self.network = network
        self.facts = Facts(network.scale, network.channels, state=(network.channels, 1))

    @classmethod
    def from_options(cls, opt, *, training=False):
        """See :meth:`Method.from_options`."""
        network = build_network(opt.network_g, "network_g", scale=opt.scale)
        load_weights(network, opt, "network_g", "network", optional=training)
        return cls(network)

    @torch.inference_mode()
    def restore(self, lq, noise, *, tiles=None, watch=None):
        """See :meth:`Method.restore`."""
        return (self.network(lq) + self.amount * noise(0)).clamp(0, 1)


class ToyTraining(Training):
    """Learns to do without the noise."""

    METHOD = ToyMethod

    def __init__(self, method, losses, player) -> None:
        super().__init__()
        self.method, self.losses, self.players = method, losses, {"g": player}

    @classmethod
    def from_options(cls, opt):
        """See :meth:`Training.from_options`."""
        method = ToyMethod.from_options(opt, training=True)
        return cls(method, build_losses(opt), Player(method.network, opt.train.optim_g))

    def forward(self, player, batch, generators):
        """See :meth:`Training.forward`; an image's noise comes from its generator."""
        gt = batch["gt"]
        noise = torch.stack([torch.randn(gt.shape[1:], generator=generator) for generator in generators])
        restored = self.method.network(batch["lq"]) + self.method.amount * noise.to(gt)
        return self.losses(2 * restored - 1, 2 * gt - 1, generators)
