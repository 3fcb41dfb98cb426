"""UPSR's denoiser: the U-Net works on pixel-unshuffled images, and a tail upsamples to the HR size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs.layers import DoublingConv
from upsr.archs.swin_unet import ShiftMask, SwinUNet
from upsr.compat import ARCH_REGISTRY
from upsr.errors import UpsrError


@ARCH_REGISTRY.register()
class UNetModelSwin(SwinUNet):
    """The denoiser of the paper, Sec. 3.4; the defaults are the released x4 network with 119,418,319 parameters.

    The arguments of :class:`SwinUNet`, and these:

    Args:
        image_size: LR side that the network is built for.
        in_channels: channels of the unshuffled state, out_channels * scale^2.
        out_channels: image channels, 3 or 1.
        num_feat: width of the upsampling tail.
        scale: upscaling factor.
        cond_channels: by default g(y) and y, each unshuffled: 2 * out_channels * scale^2.
        cond_lq, lq_size, conv_resample, dims, use_fp16, num_heads, use_scale_shift_norm, resblock_updown, patch_norm:
            stand in released option files and have one possible value.

    Raises:
        UpsrError: the arguments contradict each other.
    """

    full_precision = ("time_embed", "emb_layers", "conv_last")

    def __init__(
        self,
        image_size: int = 64,
        in_channels: int = 48,
        model_channels: int = 160,
        out_channels: int = 3,
        attention_resolutions: Sequence[int] = (64, 32, 16, 8),
        dropout: float = 0.0,
        channel_mult: Sequence[int] = (1, 2, 2, 4),
        num_res_blocks: int | Sequence[int] = 2,
        num_head_channels: int = 32,
        swin_depth: int = 2,
        swin_embed_dim: int = 192,
        window_size: int = 8,
        mlp_ratio: float = 4.0,
        num_feat: int = 128,
        scale: Literal[1, 2, 4, 8] = 4,
        cond_channels: int | None = None,
        shift_mask: ShiftMask = "released",
        cond_lq: Literal[True] = True,
        lq_size: int | None = None,
        conv_resample: Literal[True] = True,
        dims: Literal[2] = 2,
        use_fp16: Literal[False] = False,
        num_heads: Literal[1] = 1,
        use_scale_shift_norm: Literal[True] = True,
        resblock_updown: Literal[False] = False,
        patch_norm: Literal[False] = False,
    ) -> None:
        if in_channels != out_channels * scale**2:
            raise UpsrError(
                f"UNetModelSwin.in_channels is {in_channels}, but out_channels * scale^2 is {out_channels * scale**2}; "
                "the state is the pixel-unshuffled image"
            )
        if not cond_lq or lq_size not in (None, image_size):
            raise UpsrError(
                "UNetModelSwin takes its condition at the state's size: cond_lq: true, lq_size as image_size"
            )
        super().__init__(
            image_size=image_size,
            in_channels=in_channels,
            cond_channels=2 * in_channels if cond_channels is None else cond_channels,
            model_channels=model_channels,
            attention_resolutions=attention_resolutions,
            dropout=dropout,
            channel_mult=channel_mult,
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels,
            swin_depth=swin_depth,
            swin_embed_dim=swin_embed_dim,
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            shift_mask=shift_mask,
        )
        self.scale, self.out_channels = scale, out_channels
        # The first activation has torch's default slope of 0.01, the others 0.2: so in the released weights.
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(self.body_channels, num_feat, 3, padding=1), nn.LeakyReLU())
        self.doublings = int(math.log2(scale))
        for i in range(1, self.doublings + 1):
            self.add_module(f"conv_up{i}", DoublingConv(num_feat, num_feat))
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, out_channels, 3, padding=1)
        # Peak memory is in the tail: the widest map at the HR size, its activation, and what a convolution needs to make it.
        self.values_per_pixel += 4 * num_feat * scale**2

    def tail(self, h: Tensor) -> Tensor:
        """The HR image, (B, out_channels, scale*h, scale*w), not clamped."""
        h = self.conv_before_upsample(h)
        for i in range(1, self.doublings + 1):
            h = F.leaky_relu(self.get_submodule(f"conv_up{i}")(h), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(h), 0.2))
