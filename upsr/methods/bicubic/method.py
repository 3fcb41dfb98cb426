"""Bicubic upsampling, the baseline of every table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from upsr.config.schema import CommonOptions
from upsr.diffusion.sampling import Noise
from upsr.methods.base import Facts, Method, Watch
from upsr.tiling.tiles import TilePlan


class Bicubic(Method):
    """The y of the paper as a result; nothing to train."""

    def __init__(self, scale: float, channels: int = 3) -> None:
        super().__init__()
        self.facts = Facts(scale, channels)

    @classmethod
    def from_options(cls, opt: CommonOptions, *, training: bool = False) -> Self:
        """At the scale of the options."""
        return cls(opt.scale)

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`; no noise is used, and images are not cut."""
        size = self.facts.output_size(*lq.shape[-2:])
        return F.interpolate(lq, size=size, mode="bicubic", align_corners=False).clamp(0, 1)
