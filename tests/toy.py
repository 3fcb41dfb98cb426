"""A method of a user's own, as docs/extending.md describes it: no file of the package knows of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs.contracts import SRNetwork
from upsr.methods import RestorationModel
from upsr.methods.build import build_losses, build_network, load_or_refuse
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


class ToyMethod(RestorationModel):
    """Adds a little of the noise to what the network gives, and learns to do without."""

    draws = True
    amount = 0.01

    def __init__(self, network_g: SRNetwork, losses: nn.Module | None) -> None:
        super().__init__()
        self.network_g, self.losses = network_g, losses
        self.scale, self.channels, self.size_multiple = network_g.scale, network_g.channels, network_g.size_multiple

    @classmethod
    def from_options(cls, opt, purpose):
        """See :meth:`RestorationModel.from_options`."""
        network, training = build_network(opt.network_g, "network_g", scale=opt.scale), purpose == "train"
        weights = {
            "key": "path.pretrain_network_g",
            "param_key": opt.path.param_key_g,
            "strict": opt.path.strict_load_g,
        }
        load_or_refuse(network, opt.path.pretrain_network_g, "g", **weights, optional=training)
        return cls(network, build_losses(opt) if training else None)

    def forward(self, lq, gt, generators):
        """See :meth:`RestorationModel.forward`; an image's noise comes from its generator."""
        noise = torch.stack([torch.randn(gt.shape[1:], generator=generator) for generator in generators])
        return self.losses(2 * (self.network_g(lq) + self.amount * noise.to(gt)) - 1, 2 * gt - 1, generators)

    def restore(self, lq, noise, observe=None):
        """See :meth:`RestorationModel.restore`."""
        return (self.network_g(lq) + self.amount * F.pixel_shuffle(noise(0), self.scale)).clamp(0, 1)
