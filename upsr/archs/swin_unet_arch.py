"""The denoiser of UPSR: a U-Net of residual blocks and Swin stages that works on pixel-unshuffled images.

Module names are those of the released weights, so that they load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from upsr.archs.contracts import DenoisingNetwork, PreparedCondition
from upsr.archs.convolution import ConditionedConv, Conv3x3, DoublingConv, ImageConv
from upsr.archs.derived import Derived
from upsr.archs.packed import Linear, PointwiseConv
from upsr.archs.window_attention import (
    BiasGrid,
    masked_bias,
    position_bias,
    relative_position_index,
    released_shift_masks,
    textbook_shift_masks,
    window_attention,
)
from upsr.compat import ARCH_REGISTRY
from upsr.errors import UpsrError

_GROUPS = 32
_GUESSED = 256
"""Pixels, about, that the mean of a map is guessed from."""

_SHIFT_MASKS = {"released": released_shift_masks, "textbook": textbook_shift_masks}

_STRIP_VALUES = 1 << 26
"""Values of an image's map at the HR size that are held at once; a larger image is upsampled strip by strip."""

_TAIL_MARGIN = 2
"""LR rows beside a strip that its HR pixels depend on."""


class GroupNorm32(nn.GroupNorm):
    """Group norm with 32 groups, computed in float32 and returned in the input's dtype."""

    def __init__(self, channels: int) -> None:
        super().__init__(_GROUPS, channels)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> the same shape and dtype; (B, C) scale and shift are applied to the normed map."""
        if x.device.type == "cpu" and not torch.is_grad_enabled() and _is_channels_last(x):
            return self._channels_last(x, scale, shift)
        normed = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)
        if scale is None or shift is None:
            return normed
        return torch.addcmul(shift.to(x.dtype)[..., None, None], normed, scale.to(x.dtype)[..., None, None])

    def _channels_last(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """The same, with sums whose order does not depend on the number of threads (torch's own do)."""
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        # E[x^2] - E[x]^2 of a map far from 0 is the difference of two large numbers: a guess of the mean, that of some of the
        # pixels, is taken off first. An odd step meets all columns.
        some = pixels[:, :: pixels.shape[1] // _GUESSED | 1].float()
        guess = self._mean_of_groups(some.sum(1), some.shape[1]).float()
        values = pixels - guess[:, None]
        mean = self._mean_of_groups(values.sum(1), values.shape[1])
        square = self._mean_of_groups(values.square().sum(1), values.shape[1])
        inverse = (square - mean.square()).clamp_min_(0).add_(self.eps).rsqrt()
        factor = self.weight.double() * inverse
        offset = self.bias.double() - factor * mean
        if scale is not None and shift is not None:
            factor, offset = factor * scale, offset * scale + shift
        normed = torch.addcmul(offset[:, None].float(), values, factor[:, None].float(), out=values)
        return normed.to(x.dtype).view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)

    def _mean_of_groups(self, sums: Tensor, pixels: int) -> Tensor:
        """(B, C) sums over so many pixels -> (B, C) float64: the mean of each channel's group."""
        groups = sums.unflatten(1, (self.num_groups, -1))
        mean = groups.sum(2, dtype=torch.float64) / (pixels * groups.shape[2])
        return mean.repeat_interleave(groups.shape[2], dim=1)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of raw step indices: (B,) -> (B, dim) float32, cosines first; an odd dim gets a zero column."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class ResBlock(nn.Module):
    """Two norm-SiLU-conv layers around a skip; the time embedding scales and shifts the second norm."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm32(channels), nn.SiLU(), Conv3x3(channels, out_channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(emb_channels, 2 * out_channels))
        last = Conv3x3(out_channels, out_channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.out_layers = nn.Sequential(GroupNorm32(out_channels), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if channels == out_channels else PointwiseConv(channels, out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, Cin, H, W) and (B, emb_channels) -> (B, Cout, H, W)."""
        h = self.in_layers(x)
        scale, shift = self.emb_layers(emb).chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(h, 1 + scale, shift)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


class WindowAttention(nn.Module):
    """Window attention with a learned relative position bias, over NHWC maps."""

    def __init__(
        self, dim: int, window: int, heads: int, shift: int, shift_mask: Literal["released", "textbook"]
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.shift_masks: Tensor | None
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.register_buffer(
            "shift_masks", _SHIFT_MASKS[shift_mask](window, shift) if shift else None, persistent=False
        )
        self.cached_bias: Derived[BiasGrid] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        bias = self.cached_bias(self.relative_position_bias_table, self._bias)
        out = window_attention(self.qkv(x), bias, heads=self.heads, window=self.window, shift=self.shift)
        return self.proj(out)

    def _bias(self) -> BiasGrid:
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
        shift_mask: Literal["released", "textbook"],
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
    """Swin blocks at their own width. There is no residual connection around the stage.

    Whether blocks are shifted depends on the resolution that the network is built for, not on the one it meets: at a
    resolution within one window no block ever is.
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
        shift_mask: Literal["released", "textbook"],
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


class Downsample(nn.Module):
    """A strided convolution that halves the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv3x3(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = DoublingConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return self.conv(x)


class Block(nn.Sequential):
    """Layers in a row, of which residual blocks also get the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        """Run the layers."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


@ARCH_REGISTRY.register()
class UNetModelSwin(DenoisingNetwork):
    """The denoiser of the paper, Sec. 3.4; the defaults are the released x4 network with 119,418,319 parameters.

    Args:
        image_size: LR side that the network is built for; decides where Swin stages stand and which shift.
        in_channels: channels of the unshuffled state, out_channels * scale^2.
        model_channels: width of the first level, a multiple of 32.
        out_channels: image channels, 3 or 1.
        attention_resolutions: resolutions (not factors) of the levels with a Swin stage.
        dropout: in the residual blocks.
        channel_mult: width of each level in units of ``model_channels``.
        num_res_blocks: residual blocks of each level.
        num_head_channels: channels of an attention head.
        swin_depth: blocks of a Swin stage.
        swin_embed_dim: width of the Swin stages, a multiple of 32 and of ``num_head_channels``.
        window_size: side of an attention window.
        mlp_ratio: hidden width of the feed-forward layers.
        num_feat: width of the upsampling tail.
        scale: upscaling factor.
        cond_channels: channels of the condition; by default g(y) and y, each unshuffled: 2 * out_channels * scale^2.
        shift_mask: ``"released"`` is what the released weights need; ``"textbook"`` is Swin's own mask, for training
            from scratch.
        cond_lq, lq_size, conv_resample, dims, use_fp16, num_heads, use_scale_shift_norm, resblock_updown, patch_norm:
            stand in released option files and have one possible value.

    Attributes:
        size_multiple: sides of the input are multiples of it (64 for the released network).
        activation_checkpointing: in training, keep only the blocks' inputs and compute the rest again when gradients are.

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
        shift_mask: Literal["released", "textbook"] = "released",
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
        super().__init__()
        self.activation_checkpointing = False
        blocks = [num_res_blocks] * len(channel_mult) if isinstance(num_res_blocks, int) else list(num_res_blocks)
        _check(
            image_size=image_size,
            in_channels=in_channels,
            expected_in_channels=out_channels * scale**2,
            widths=[model_channels * mult for mult in channel_mult],
            levels=len(blocks),
            swin_embed_dim=swin_embed_dim,
            num_head_channels=num_head_channels,
            cond_lq=cond_lq,
            lq_size=lq_size,
        )
        self.scale = scale
        self.out_channels = out_channels
        self.in_channels = in_channels
        self.cond_channels = 2 * in_channels if cond_channels is None else cond_channels
        self.model_channels = model_channels
        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            Linear(model_channels, emb_channels), nn.SiLU(), Linear(emb_channels, emb_channels)
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

        channels = model_channels
        self.input_blocks = nn.ModuleList([Block(ConditionedConv(in_channels, self.cond_channels, channels))])
        skips = [channels]
        resolution = image_size
        for level, mult in enumerate(channel_mult):
            for i in range(blocks[level]):
                layers: list[nn.Module] = [res(channels, mult * model_channels)]
                channels = mult * model_channels
                if i == 0 and resolution in attention_resolutions:
                    layers.append(swin(channels, resolution))
                self.input_blocks.append(Block(*layers))
                skips.append(channels)
            if level + 1 < len(channel_mult):
                self.input_blocks.append(Block(Downsample(channels)))
                skips.append(channels)
                resolution //= 2

        self.middle_block = Block(res(channels, channels), swin(channels, resolution), res(channels, channels))

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(blocks[level] + 1):
                layers = [res(channels + skips.pop(), mult * model_channels)]
                channels = mult * model_channels
                if i == 0 and resolution in attention_resolutions:
                    layers.append(swin(channels, resolution))
                if level and i == blocks[level]:
                    layers.append(Upsample(channels))
                    resolution *= 2
                self.output_blocks.append(Block(*layers))

        # The first activation has torch's default slope of 0.01, the others 0.2: so in the released weights.
        self.conv_before_upsample = nn.Sequential(Conv3x3(channels, num_feat), nn.LeakyReLU())
        self.doublings = int(math.log2(scale))
        for i in range(1, self.doublings + 1):
            self.add_module(f"conv_up{i}", DoublingConv(num_feat, num_feat))
        self.conv_hr = Conv3x3(num_feat, num_feat)
        self.conv_last = ImageConv(num_feat, out_channels)

        self.size_multiple = self._needed_multiple(len(channel_mult))
        # The tail at full size, where the widest maps are: one, its activation, and what a convolution needs to make it.
        self.values_per_pixel = 4 * num_feat * scale**2 + sum(blocks) * model_channels

    def forward(self, x: Tensor, t: Tensor, lq: Tensor | PreparedCondition) -> Tensor:
        """Estimate the HR image.

        Args:
            x: scaled noisy state, (B, in_channels, h, w).
            t: raw step index, (B,).
            lq: condition, (B, cond_channels, h, w), or what :meth:`prepared` made of it.

        Returns:
            (B, out_channels, scale*h, scale*w), not clamped.

        Raises:
            UpsrError: h or w is no multiple of ``size_multiple``.
        """
        if any(side % self.size_multiple for side in x.shape[-2:]):
            raise UpsrError(
                f"the denoiser takes sides that are multiples of {self.size_multiple}, not {tuple(x.shape[-2:])}; "
                "pad the image (upsr.restoring.restore does)"
            )
        emb = self.time_embed(timestep_embedding(t, self.model_channels).to(next(self.time_embed.parameters()).dtype))
        first, *others = self.input_blocks
        if isinstance(lq, PreparedCondition):
            h = self._first_conv.with_share(self._taken(x), lq.share)
        else:
            h = self._run(first, self._taken(torch.cat([x, lq], dim=1)), emb)
        skips = [h]
        for block in others:
            h = self._run(block, h, emb)
            skips.append(h)
        h = self._run(self.middle_block, h, emb)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), emb)
        return self._upsampled(h)

    def prepared(self, lq: Tensor | PreparedCondition) -> PreparedCondition:
        """See :meth:`DenoisingNetwork.prepared`."""
        return lq if isinstance(lq, PreparedCondition) else PreparedCondition(self._first_conv.share(self._taken(lq)))

    @property
    def _first_conv(self) -> ConditionedConv:
        return cast(ConditionedConv, self.input_blocks[0].get_submodule("0"))

    def _taken(self, x: Tensor) -> Tensor:
        """The input in the type, and where it is faster the layout, that the network computes in."""
        x = x.to(self.conv_hr.bias.dtype)
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            return x.contiguous(memory_format=torch.channels_last)
        return x

    def _run(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def _upsampled(self, h: Tensor) -> Tensor:
        """Upsampling from the LR size, (B, C, h, w) -> (B, out_channels, scale*h, scale*w)."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._run(lambda h: self._tail(self.conv_before_upsample(h)), h)
        h = self.conv_before_upsample(h)
        height, values = h.shape[2], self.scale**2 * h.shape[1] * h.shape[3]
        rows = max(_STRIP_VALUES // values, 4 * _TAIL_MARGIN)
        if rows >= height:
            return self._tail(h)
        strips = []
        for top in range(0, height, rows):
            first, last = max(top - _TAIL_MARGIN, 0), min(top + rows + _TAIL_MARGIN, height)
            inside = slice((top - first) * self.scale, (min(top + rows, height) - first) * self.scale)
            strips.append(self._tail(h[:, :, first:last])[:, :, inside])
        return torch.cat(strips, dim=2)

    def _tail(self, h: Tensor) -> Tensor:
        """What is wide and at the HR size, or on the way to it: (B, num_feat, h, w) -> (B, out_channels, scale*h, scale*w)."""
        for i in range(1, self.doublings + 1):
            h = self._activated(self.get_submodule(f"conv_up{i}")(h))
        return self.conv_last(self._activated(self.conv_hr(h)))

    @staticmethod
    def _activated(h: Tensor) -> Tensor:
        return F.leaky_relu(h, 0.2, inplace=not torch.is_grad_enabled())

    def _needed_multiple(self, levels: int) -> int:
        """Every level is halved from the one above, and its windows must tile it."""
        multiple = 2 ** (levels - 1)
        for level, stage in self._swin_stages(levels):
            multiple = math.lcm(multiple, stage.window * 2**level)
        return multiple

    def _swin_stages(self, levels: int) -> list[tuple[int, SwinStage]]:
        """The Swin stages of encoder and middle with their levels; the decoder's have the same windows."""
        found, level = [], 0
        for block in self.input_blocks:
            found += [(level, layer) for layer in block.children() if isinstance(layer, SwinStage)]
            level += any(isinstance(layer, Downsample) for layer in block.children())
        found += [(levels - 1, layer) for layer in self.middle_block.children() if isinstance(layer, SwinStage)]
        return found


def _check(
    *,
    image_size: int,
    in_channels: int,
    expected_in_channels: int,
    widths: Sequence[int],
    levels: int,
    swin_embed_dim: int,
    num_head_channels: int,
    cond_lq: bool,
    lq_size: int | None,
) -> None:
    if in_channels != expected_in_channels:
        raise UpsrError(
            f"UNetModelSwin.in_channels is {in_channels}, but out_channels * scale^2 is {expected_in_channels}; "
            "the state is the pixel-unshuffled image"
        )
    if levels != len(widths):
        raise UpsrError(f"UNetModelSwin.num_res_blocks has {levels} entries, but channel_mult has {len(widths)}")
    for name, width in [("model_channels * channel_mult", w) for w in widths] + [("swin_embed_dim", swin_embed_dim)]:
        if width % _GROUPS:
            raise UpsrError(f"UNetModelSwin.{name} gives {width} channels, which 32 norm groups do not divide")
    if swin_embed_dim % num_head_channels:
        raise UpsrError(
            f"UNetModelSwin.num_head_channels {num_head_channels} does not divide swin_embed_dim {swin_embed_dim}"
        )
    if image_size % 2 ** (levels - 1):
        raise UpsrError(f"UNetModelSwin.image_size {image_size} cannot be halved {levels - 1} times")
    if not cond_lq or lq_size not in (None, image_size):
        raise UpsrError("UNetModelSwin takes its condition at the state's size: cond_lq: true, lq_size as image_size")
