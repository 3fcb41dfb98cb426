"""The yardstick: bicubic upsampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.config.schema import Options
from upsr.diffusion.sampling import NoiseSource
from upsr.methods.base import Observer, Purpose, RestorationModel


class Bicubic(RestorationModel):
    """The y of the paper as a result; nothing to train."""

    size_multiple = 1

    def __init__(self, scale: int, channels: int = 3) -> None:
        super().__init__()
        self.network_g = nn.Identity()
        self.scale = scale
        self.channels = channels

    @classmethod
    def from_options(cls, opt: Options, purpose: Purpose) -> Bicubic:
        """At the scale of the options."""
        return cls(opt.scale)

    def forward(self, lq: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """There is no loss to minimise."""
        raise NotImplementedError("bicubic upsampling is not trained")

    def restore(self, lq: Tensor, noise: NoiseSource, observe: Observer | None = None) -> Tensor:
        """See :meth:`RestorationModel.restore`; no noise is used."""
        return F.interpolate(lq, scale_factor=self.scale, mode="bicubic", align_corners=False).clamp(0, 1)
