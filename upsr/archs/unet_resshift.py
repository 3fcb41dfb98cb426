"""ResShift's denoiser: the U-Net works on latents, and its tail ends at their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from upsr.archs.layers import Downsample, GroupNorm32
from upsr.archs.swin_unet import ShiftMask, SwinUNet
from upsr.compat import ARCH_REGISTRY
from upsr.errors import UpsrError

_PYRAMID_WIDTH = 16


class HalvingConv(Downsample):
    """A strided convolution that halves the sides and doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.op = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)


@ARCH_REGISTRY.register()
class ResShiftUNet(SwinUNet):
    """The denoiser of ResShift (Yue et al., NeurIPS 2023) and of SinSR.

    The defaults are the released x4 network with 118,593,583 parameters.

    The arguments of :class:`SwinUNet`, and these:

    Args:
        image_size: side of the latent that the network is built for.
        in_channels: channels of the latent.
        out_channels: the same.
        lq_size: LR side; where it is 2, 4, ... times ``image_size``, convolutions halve the condition as often.
        cond_channels: channels of the LR image.
        cond_lq, conv_resample, dims, use_fp16, num_heads, use_scale_shift_norm, resblock_updown, patch_norm:
            stand in released option files and have one possible value.

    Attributes:
        cond_factor: ``lq_size`` / ``image_size``.

    Raises:
        UpsrError: the arguments contradict each other.
    """

    full_precision = ("time_embed", "emb_layers", "out.2")
    scale = 1

    def __init__(
        self,
        image_size: int = 64,
        in_channels: int = 3,
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
        lq_size: int | None = None,
        cond_channels: int = 3,
        shift_mask: ShiftMask = "released",
        cond_lq: Literal[True] = True,
        conv_resample: Literal[True] = True,
        dims: Literal[2] = 2,
        use_fp16: Literal[False] = False,
        num_heads: Literal[1] = 1,
        use_scale_shift_norm: Literal[True] = True,
        resblock_updown: Literal[False] = False,
        patch_norm: Literal[False] = False,
    ) -> None:
        if in_channels != out_channels:
            raise UpsrError(
                f"ResShiftUNet.out_channels is {out_channels}, but in_channels is {in_channels}; both are the latent's"
            )
        lq_size = image_size if lq_size is None else lq_size
        halvings = max(lq_size // image_size, 1).bit_length() - 1
        if lq_size != image_size << halvings:
            raise UpsrError(f"ResShiftUNet.lq_size is {lq_size}; it is image_size ({image_size}) times 1, 2, 4, ...")
        super().__init__(
            image_size=image_size,
            in_channels=in_channels,
            cond_channels=_PYRAMID_WIDTH << halvings if halvings else cond_channels,
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
        self.out_channels, self.cond_channels, self.cond_factor = out_channels, cond_channels, 1 << halvings
        self.feature_extractor = nn.Sequential()
        channels = cond_channels
        for width in (_PYRAMID_WIDTH << level for level in range(halvings)):
            self.feature_extractor.extend([nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), HalvingConv(width)])
            channels = 2 * width
        self.out = nn.Sequential(
            GroupNorm32(self.body_channels), nn.SiLU(), nn.Conv2d(self.body_channels, out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        """Estimate the clean latent.

        Args:
            x: scaled noisy latent, (B, in_channels, h, w).
            t: raw step index, (B,).
            lq: LR image in [-1, 1], (B, cond_channels, cond_factor*h, cond_factor*w).

        Returns:
            (B, out_channels, h, w).

        Raises:
            UpsrError: h or w is no multiple of ``size_multiple``.
        """
        return super().forward(x, t, self.feature_extractor(lq))

    def tail(self, h: Tensor) -> Tensor:
        """The latent, (B, out_channels, h, w)."""
        return self.out(h)
