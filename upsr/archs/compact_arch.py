"""A small g of plain convolutions, for where seconds count."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from upsr.archs.contracts import SRNetwork
from upsr.compat import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class CompactSR(SRNetwork):
    """basicsr's ``SRVGGNetCompact`` (Real-ESRGAN's compact network): convolutions at LR size, one shuffle to HR size, added
    to the enlarged input.

    Args:
        num_feat: width.
        num_conv: convolutions between the first and the last.
        upscale: upscaling factor.
        channels: image channels.
    """

    def __init__(self, num_feat: int = 64, num_conv: int = 16, upscale: int = 4, channels: Literal[1, 3] = 3) -> None:
        super().__init__()
        from basicsr.archs.srvgg_arch import SRVGGNetCompact  # here: it brings all of basicsr's networks

        self.scale = upscale
        self.channels = channels
        self.network = SRVGGNetCompact(
            num_in_ch=channels, num_out_ch=channels, num_feat=num_feat, num_conv=num_conv, upscale=upscale
        )

    def forward(self, lq: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] -> (B, C, upscale*h, upscale*w) in about [0, 1]."""
        return self.network(lq)
