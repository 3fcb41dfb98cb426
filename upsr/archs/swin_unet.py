"""The body of the denoisers: a U-Net of residual blocks and Swin stages. Subclasses add the tail.

Module names are those of the released weights, so that they load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from upsr.archs.contracts import DenoisingNetwork
from upsr.archs.layers import (
    ConditionedConv,
    Downsample,
    GroupNorm32,
    PointwiseConv,
    ResBlock,
    Upsample,
    timestep_embedding,
)
from upsr.archs.window_attention import (
    BiasGrid,
    masked_bias,
    position_bias,
    relative_position_index,
    released_shift_masks,
    textbook_shift_masks,
    window_attention,
)
from upsr.errors import UpsrError

ShiftMask = Literal["released", "textbook"]

_SHIFT_MASKS = {"released": released_shift_masks, "textbook": textbook_shift_masks}


class WindowAttention(nn.Module):
    """Window attention with a learned relative position bias, over NHWC maps."""

    def __init__(self, dim: int, window: int, heads: int, shift: int, shift_mask: ShiftMask) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.shift_masks: Tensor | None
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer(
            "shift_masks", _SHIFT_MASKS[shift_mask](window, shift) if shift else None, persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        out = window_attention(self.qkv(x), self.bias(), heads=self.heads, window=self.window, shift=self.shift)
        return self.proj(out)

    def bias(self) -> BiasGrid:
        """Position bias and mask by kind of window."""
        return masked_bias(
            position_bias(self.relative_position_bias_table, self.relative_position_index), self.shift_masks
        )


class ConvMLP(nn.Module):
    """Pointwise feed-forward layer over NCHW maps."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv(dim, hidden)
        self.fc2 = PointwiseConv(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and feed-forward layer; its norms are group norms over the whole map."""

    def __init__(
        self,
        dim: int,
        resolution: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        shift_mask: ShiftMask,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm32(dim)
        self.attn = WindowAttention(dim, window, heads, shift, shift_mask)
        self.norm2 = GroupNorm32(dim)
        self.mlp = ConvMLP(dim, int(dim * mlp_ratio))
        if shift:
            # Released files hold the mask of the training resolution; it is kept for strict loading and never read.
            self.register_buffer("attn_mask", _stored_mask(resolution // window, window, shift))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = x + self.attn(self.norm1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.mlp(self.norm2(x))


def _stored_mask(count: int, window: int, shift: int) -> Tensor:
    """(count^2, N, N): the released mask of every window of a square map."""
    others, last = released_shift_masks(window, shift)
    return torch.cat([others.expand(count * (count - 1), -1, -1), last.expand(count, -1, -1)])


class PointwiseProjection(nn.Module):
    """A 1 x 1 convolution under the name that the released weights have for it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = PointwiseConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H, W)."""
        return self.proj(x)


class SwinStage(nn.Module):
    """Swin blocks at their own width, without a residual connection around them.

    Every second block is shifted, but none where the resolution that the network is built for fits into one window.
    """

    def __init__(
        self,
        channels: int,
        resolution: int,
        *,
        depth: int,
        dim: int,
        heads: int,
        window: int,
        mlp_ratio: float,
        shift_mask: ShiftMask,
    ) -> None:
        super().__init__()
        fits_one_window = resolution <= window
        window = min(window, resolution)
        self.window = window
        self.patch_embed = PointwiseProjection(channels, dim)
        self.blocks = nn.ModuleList(
            SwinBlock(
                dim,
                resolution,
                heads,
                window,
                shift=window // 2 if i % 2 and not fits_one_window else 0,
                mlp_ratio=mlp_ratio,
                shift_mask=shift_mask,
            )
            for i in range(depth)
        )
        self.patch_unembed = PointwiseProjection(dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; H and W are multiples of the window."""
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return self.patch_unembed(x)


class Block(nn.Sequential):
    """Layers in a row, of which residual blocks also get the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        """Run the layers."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class SwinUNet(DenoisingNetwork):
    """The body; a subclass adds its tail and overrides :meth:`tail`.

    Args:
        image_size: side of the state that the network is built for; decides where Swin stages stand and which shift.
        in_channels: channels of the state.
        cond_channels: channels of the condition, which has the state's size.
        model_channels: width of the first level, a multiple of 32.
        attention_resolutions: resolutions (not factors) of the levels with a Swin stage.
        dropout: in the residual blocks.
        channel_mult: width of each level in units of ``model_channels``.
        num_res_blocks: residual blocks of each level.
        num_head_channels: channels of an attention head.
        swin_depth: blocks of a Swin stage.
        swin_embed_dim: width of the Swin stages, a multiple of 32 and of ``num_head_channels``.
        window_size: side of an attention window.
        mlp_ratio: hidden width of the feed-forward layers.
        shift_mask: ``"released"`` is what the released weights need; ``"textbook"`` is Swin's own mask, for training
            from scratch.

    Attributes:
        size_multiple: sides of the input are multiples of it (64 for the released networks).
        values_per_pixel: see :class:`DenoisingNetwork`; of the body alone.
        body_channels: width of the map that :meth:`tail` takes.
        activation_checkpointing: in training, keep only the blocks' inputs and compute the rest again for the gradients.

    Raises:
        UpsrError: the arguments contradict each other.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        cond_channels: int,
        model_channels: int,
        attention_resolutions: Sequence[int],
        dropout: float,
        channel_mult: Sequence[int],
        num_res_blocks: int | Sequence[int],
        num_head_channels: int,
        swin_depth: int,
        swin_embed_dim: int,
        window_size: int,
        mlp_ratio: float,
        shift_mask: ShiftMask,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        blocks = [num_res_blocks] * levels if isinstance(num_res_blocks, int) else list(num_res_blocks)
        widths = [mult * model_channels for mult in channel_mult]
        self._check(image_size, widths, blocks, swin_embed_dim, num_head_channels)
        self.in_channels, self.cond_channels, self.model_channels = in_channels, cond_channels, model_channels
        self.activation_checkpointing = False
        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

        def res(channels: int, out: int) -> ResBlock:
            return ResBlock(channels, emb_channels, out, dropout)

        def swin(channels: int, resolution: int) -> SwinStage:
            return SwinStage(
                channels,
                resolution,
                depth=swin_depth,
                dim=swin_embed_dim,
                heads=swin_embed_dim // num_head_channels,
                window=window_size,
                mlp_ratio=mlp_ratio,
                shift_mask=shift_mask,
            )

        # Every level is halved from the one above, and its windows tile it.
        windows = [min(window_size, image_size >> level) << level for level in range(levels)]
        attended = [image_size >> level in attention_resolutions for level in range(levels - 1)] + [True]
        self.size_multiple = math.lcm(
            2 ** (levels - 1), *(w for w, attends in zip(windows, attended, strict=True) if attends)
        )
        self.values_per_pixel = sum(blocks) * model_channels

        channels = model_channels
        self.input_blocks = nn.ModuleList([Block(ConditionedConv(in_channels, cond_channels, channels))])
        skips = [channels]
        resolution = image_size
        for level, width in enumerate(widths):
            for i in range(blocks[level]):
                layers: list[nn.Module] = [res(channels, width)]
                channels = width
                if i == 0 and resolution in attention_resolutions:
                    layers.append(swin(channels, resolution))
                self.input_blocks.append(Block(*layers))
                skips.append(channels)
            if level + 1 < levels:
                self.input_blocks.append(Block(Downsample(channels)))
                skips.append(channels)
                resolution //= 2

        self.middle_block = Block(res(channels, channels), swin(channels, resolution), res(channels, channels))

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks[level] + 1):
                layers = [res(channels + skips.pop(), width)]
                channels = width
                if i == 0 and resolution in attention_resolutions:
                    layers.append(swin(channels, resolution))
                if level and i == blocks[level]:
                    layers.append(Upsample(channels))
                    resolution *= 2
                self.output_blocks.append(Block(*layers))
        self.body_channels = channels

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        """Estimate the clean image, or its latent.

        Args:
            x: scaled noisy state, (B, in_channels, h, w).
            t: raw step index, (B,).
            lq: condition, (B, cond_channels, h, w).

        Returns:
            What :meth:`tail` gives.

        Raises:
            UpsrError: h or w is no multiple of ``size_multiple``.
        """
        if any(side % self.size_multiple for side in x.shape[-2:]):
            raise UpsrError(
                f"the denoiser takes sides that are multiples of {self.size_multiple}, not {tuple(x.shape[-2:])}; "
                "pad the image (upsr.restoring.restore does)"
            )
        emb = self.time_embed(timestep_embedding(t, self.model_channels).to(x.dtype))
        h = self._run(self.input_blocks.get_submodule("0.0"), x, lq)
        skips = [h]
        for block in self.input_blocks[1:]:
            h = self._run(block, h, emb)
            skips.append(h)
        h = self._run(self.middle_block, h, emb)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), emb)
        return self._run(self.tail, h)

    def tail(self, h: Tensor) -> Tensor:
        """The output from the body's last map, (B, body_channels, h, w)."""
        raise NotImplementedError

    def _run(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def _check(
        self, image_size: int, widths: Sequence[int], blocks: Sequence[int], swin_embed_dim: int, head_channels: int
    ) -> None:
        name, levels = type(self).__name__, len(widths)
        if len(blocks) != levels:
            raise UpsrError(f"{name}.num_res_blocks has {len(blocks)} entries, but channel_mult has {levels}")
        for key, width in [("model_channels * channel_mult", w) for w in widths] + [("swin_embed_dim", swin_embed_dim)]:
            if width % 32:
                raise UpsrError(f"{name}.{key} gives {width} channels, which 32 norm groups do not divide")
        if swin_embed_dim % head_channels:
            raise UpsrError(f"{name}.num_head_channels {head_channels} does not divide swin_embed_dim {swin_embed_dim}")
        if image_size % 2 ** (levels - 1):
            raise UpsrError(f"{name}.image_size {image_size} cannot be halved {levels - 1} times")
