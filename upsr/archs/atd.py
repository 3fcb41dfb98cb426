"""The auxiliary network g of the released UPSR: an adaptive-token-dictionary transformer (ATD-real).

Module names are those of the released weights, so that they load strictly. It differs from the published ATD in five
points: images are mapped to [-1, 1], categories hold 128 tokens, the dictionary is normalised before every layer,
the three attention branches are summed over sqrt(3), and a layer norm ends every group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs.contracts import SRNetwork
from upsr.archs.reorder import inverse, reordered
from upsr.archs.window_attention import (
    BiasGrid,
    masked_bias,
    position_bias,
    relative_position_index,
    textbook_shift_masks,
    window_attention,
)
from upsr.compat import ARCH_REGISTRY
from upsr.errors import UpsrError

_MAX_LOGIT_SCALE = math.log(100.0)

_PART = 256
"""Tokens that are added up at once, or the largest part of it that divides their number."""


class DictionaryCrossAttention(nn.Module):
    """Cosine attention from tokens (queries) to dictionary entries (keys and values), one head."""

    def __init__(self, dim: int, num_tokens: int, reduced_dim: int) -> None:
        super().__init__()
        self.wq = nn.Linear(dim, reduced_dim)
        self.wk = nn.Linear(dim, reduced_dim)
        self.wv = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.full((num_tokens,), 0.5))

    def forward(self, tokens: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, C) and (B, m, C) -> output (B, n, C) and similarities S (B, n, m), whose rows sum to 1."""
        q = F.normalize(self.wq(tokens), dim=-1)
        k = F.normalize(self.wk(dictionary), dim=-1)
        temperature = 1 + self.scale.clamp(0.0, 1.0) * math.log(len(self.scale))
        similarity = (q @ (k * temperature[:, None]).transpose(1, 2)).softmax(dim=-1)
        return similarity @ self.wv(dictionary), similarity


class CategoryAttention(nn.Module):
    """Attention among tokens that resemble the same dictionary entry, wherever they are in the image."""

    def __init__(self, dim: int, heads: int, category_size: int) -> None:
        super().__init__()
        self.heads, self.category_size = heads, category_size
        self.logit_scale = nn.Parameter(torch.full((1, 1), math.log(10.0)))
        self.proj = nn.Linear(dim, dim)

    def forward(self, qkv: Tensor, similarity: Tensor) -> Tensor:
        """(B, n, 3C) and S (B, n, m) -> (B, n, C).

        Tokens are ordered by category, ties by position: group membership, and so the result, depends on the order.
        """
        batch, n, _ = qkv.shape
        order = similarity.max(dim=-1).indices.sort(dim=-1, stable=True).indices
        order = (order + n * torch.arange(batch, device=order.device)[:, None]).flatten()
        return self.proj(self.attended(qkv, order))

    def attended(self, qkv: Tensor, order: Tensor) -> Tensor:
        """(B, n, 3C) -> (B, n, C), from token to token of ``order`` (B * n,), by categories of equal size."""
        batch, n, channels = qkv.shape
        size = min(n, self.category_size)
        back = inverse(order)
        tokens = reordered(qkv.flatten(0, 1), order, back).view_as(qkv)
        if n % size:
            tokens = torch.cat([tokens, tokens[:, n - (size - n % size) :].flip(1)], dim=1)
        q, k, v = tokens.view(batch, -1, size, 3, self.heads, channels // (3 * self.heads)).permute(3, 0, 1, 4, 2, 5)
        q, k, v = (x.flatten(0, 1) for x in (q * self.scale().to(q.dtype), k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        out = out.transpose(1, 2).reshape(batch, -1, channels // 3)[:, :n]
        return reordered(out.flatten(0, 1), back, order).view(batch, n, -1)

    def scale(self) -> Tensor:
        """The learned factor of q k, (1, 1)."""
        return self.logit_scale.clamp(max=_MAX_LOGIT_SCALE).exp()


class ShiftedWindowAttention(nn.Module):
    """Swin's window attention over projections made elsewhere."""

    def __init__(self, dim: int, window: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.shift_masks: Tensor | None
        self.register_buffer("shift_masks", textbook_shift_masks(window, shift) if shift else None, persistent=False)

    def forward(self, qkv: Tensor, index: Tensor) -> Tensor:
        """(B, H, W, 3C) and the (N, N) relative position index -> (B, H, W, C)."""
        return self.proj(
            window_attention(qkv, self.bias(index), heads=self.heads, window=self.window, shift=self.shift)
        )

    def bias(self, index: Tensor) -> BiasGrid:
        """Position bias and mask by kind of window, from the relative position index."""
        return masked_bias(position_bias(self.relative_position_bias_table, index), self.shift_masks)


class DepthwiseConv(nn.Module):
    """GELU of a depthwise convolution."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        return self.depthwise_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvFFN(nn.Module):
    """Feed-forward layer with a depthwise convolution in between."""

    def __init__(self, dim: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden, kernel_size)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x))


class ATDLayer(nn.Module):
    """Three attention branches, a feed-forward layer, and (but in the last of a group) a refined dictionary."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        shift: int,
        category_size: int,
        num_tokens: int,
        reduced_dim: int,
        kernel_size: int,
        mlp_ratio: float,
        refines: bool,
    ) -> None:
        super().__init__()
        self.refines = refines
        self.norm1 = nn.LayerNorm(dim)
        self.wqkv = nn.Linear(dim, 3 * dim)
        self.attn_win = ShiftedWindowAttention(dim, window, heads, shift)
        self.attn_atd = DictionaryCrossAttention(dim, num_tokens, reduced_dim)
        self.attn_aca = CategoryAttention(dim, heads, category_size)
        self.norm2 = nn.LayerNorm(dim)
        self.convffn = ConvFFN(dim, int(dim * mlp_ratio), kernel_size)
        if refines:
            self.norm3 = nn.InstanceNorm1d(num_tokens, affine=True)
            self.sigma = nn.Parameter(torch.zeros(num_tokens, 1))

    def forward(self, x: Tensor, dictionary: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            x: (B, H, W, C), sides multiples of the window.
            dictionary: (B, m, C), rows of length 1.
            index: relative position index of the windows.

        Returns:
            x and the dictionary for the next layer, not normalised.
        """
        normed = self.norm1(x)
        qkv = self.wqkv(normed)
        by_dictionary, similarity = self.attn_atd(normed.flatten(1, 2), dictionary)
        by_category = self.attn_aca(qkv.flatten(1, 2), similarity)
        by_window = self.attn_win(qkv, index)
        x = torch.add(x, (by_dictionary + by_category).view_as(x) + by_window, alpha=1 / math.sqrt(3))
        x = x + self.convffn(self.norm2(x))
        if self.refines:
            attention = self.norm3(similarity.transpose(1, 2)).softmax(dim=-1)
            keep = self.sigma.sigmoid()
            dictionary = keep * dictionary + (1 - keep) * _weighted_sums(attention, x.flatten(1, 2))
        return x, dictionary


def _weighted_sums(weights: Tensor, tokens: Tensor) -> Tensor:
    """(B, m, n) times (B, n, C), part by part: a library may split one long sum among its threads."""
    part = math.gcd(tokens.shape[1], _PART)
    products = weights.unflatten(2, (-1, part)).transpose(1, 2) @ tokens.unflatten(1, (-1, part))
    return products.sum(1)


class ResidualGroup(nn.Module):
    """Layers that share a dictionary, refined from layer to layer."""

    def __init__(self, dim: int, num_tokens: int, layers: Sequence[ATDLayer]) -> None:
        super().__init__()
        self.td = nn.Parameter(torch.randn(num_tokens, dim))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        dictionary = self.td.expand(x.shape[0], -1, -1)
        for layer in self.layers:
            x, dictionary = layer(x, F.normalize(dictionary, dim=-1), index)
        return x


class PatchNorm(nn.Module):
    """A layer norm under the name that the released weights have for it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        return self.norm(x)


class ATDGroup(nn.Module):
    """A residual group, a convolution and a norm around one skip connection."""

    def __init__(self, dim: int, group: ResidualGroup) -> None:
        super().__init__()
        self.residual_group = group
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.patch_embed = PatchNorm(dim)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        return self.patch_embed(_conv(self.conv, self.residual_group(x, index))) + x


def _conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of an NHWC map."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@ARCH_REGISTRY.register()
class ATD(SRNetwork):
    """g of the released UPSR; the defaults are its x4 network with 2,532,360 parameters.

    Args:
        upscale: upscaling factor.
        in_chans: image channels, 3 or 1.
        embed_dim: width C.
        depths: layers of each group.
        num_heads: attention heads, the same in all groups; divides ``embed_dim``.
        window_size: side of an attention window; every second layer is shifted by half of it.
        category_size: tokens that attend to each other in category attention.
        num_tokens: entries of a dictionary, m.
        reducted_dim: width of queries and keys of the dictionary attention.
        convffn_kernel_size: of the depthwise convolution, odd.
        mlp_ratio: hidden width of the feed-forward layers.

    Attributes:
        scale, channels: as ``upscale``, ``in_chans``.
        size_multiple: 1; any size is taken and padded inside.
        carries_weights: False; weights come from a file.
    """

    def __init__(
        self,
        upscale: Literal[1, 2, 4, 8] = 4,
        in_chans: Literal[1, 3] = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: int = 4,
        window_size: int = 16,
        category_size: int = 128,
        num_tokens: int = 64,
        reducted_dim: int = 8,
        convffn_kernel_size: int = 7,
        mlp_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise UpsrError(f"ATD.num_heads {num_heads} does not divide embed_dim {embed_dim}")
        self.scale, self.channels, self.window_size = upscale, in_chans, window_size
        self.register_buffer("relative_position_index_SA", relative_position_index(window_size))

        def group(depth: int) -> ATDGroup:
            layers = [
                ATDLayer(
                    embed_dim,
                    heads=num_heads,
                    window=window_size,
                    shift=window_size // 2 if i % 2 else 0,
                    category_size=category_size,
                    num_tokens=num_tokens,
                    reduced_dim=reducted_dim,
                    kernel_size=convffn_kernel_size,
                    mlp_ratio=mlp_ratio,
                    refines=i + 1 < depth,
                )
                for i in range(depth)
            ]
            return ATDGroup(embed_dim, ResidualGroup(embed_dim, num_tokens, layers))

        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = PatchNorm(embed_dim)
        self.layers = nn.ModuleList(group(depth) for depth in depths)
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(embed_dim, upscale**2 * in_chans, 3, padding=1), nn.PixelShuffle(upscale)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, lq: Tensor) -> Tensor:
        """(B, in_chans, h, w) in [0, 1] -> (B, in_chans, upscale*h, upscale*w) around [0, 1], not clamped."""
        height, width = lq.shape[-2:]
        shallow = self.conv_first(2 * _mirror_to_multiple(lq, self.window_size) - 1)
        x = self.patch_embed(shallow.permute(0, 2, 3, 1))
        for group in self.layers:
            x = group(x, self.relative_position_index_SA)
        deep = self.conv_after_body(self.norm(x).permute(0, 3, 1, 2)) + shallow
        out = self.upsample(deep) / 2 + 0.5
        return out[..., : height * self.scale, : width * self.scale]


def _mirror_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend (B, C, H, W) at the bottom and the right by mirroring, the border row included, as often as needed."""

    def places(size: int) -> Tensor:
        position = torch.arange(-(-size // multiple) * multiple, device=image.device) % (2 * size)
        return torch.minimum(position, 2 * size - 1 - position)

    if all(size % multiple == 0 for size in image.shape[-2:]):
        return image
    return image[..., places(image.shape[-2])[:, None], places(image.shape[-1])]
