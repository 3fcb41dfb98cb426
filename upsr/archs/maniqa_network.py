"""The network of MANIQA (Yang et al.: Multi-dimension Attention Network for No-Reference Image Quality Assessment, 2022)."""

from __future__ import annotations

import re
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs.transformer import MLP
from upsr.archs.window_attention import (
    masked_bias,
    position_bias,
    relative_position_index,
    textbook_shift_masks,
    window_attention,
)

_CROP, _PATCH = 224, 8
_SIDE = _CROP // _PATCH
_SMALLEST = _CROP + 1
"""Images with a shorter side are enlarged to it."""
_STEPS = 4
"""Crops begin at 0 to 3 of these parts of the height, and at 0 to 4 of the width."""
_CROPS_AT_ONCE = 4
_VIT_DIM, _VIT_HEADS = 768, 12
_TAPS = (6, 7, 8, 9)
"""Blocks of the vision transformer whose tokens are used; later ones are not computed."""
_DIMS = (768, 384)
"""Of the two stages."""
_HIDDEN, _HEADS, _WINDOW = 768, 4, 4

UNUSED = re.compile(
    r"vit\.(norm|head|blocks\.1[01])\.|swintransformer\d\.downsample\.|.*\.(attn_mask|relative_position_index)$"
)
"""Names in the published files of layers that give nothing to the score, and of constants."""


class MANIQANetwork(nn.Module):
    """The quality of images as one number each: the mean over the patches of 20 crops of 224 pixels, by learned weights.

    Names and shapes of the weights are those of the published files, without :data:`UNUSED`.

    Args:
        scale: of what a layer of windows adds to its input. The published weights of KonIQ-10k were trained with 0.8.
    """

    def __init__(self, scale: float = 0.8) -> None:
        super().__init__()
        self.vit = VisionTransformer()
        wide, narrow = _DIMS
        self.tablock1 = nn.Sequential(*(TransposedAttention() for _ in range(2)))
        self.conv1 = nn.Conv2d(len(_TAPS) * _VIT_DIM, wide, 1)
        self.swintransformer1 = WindowLayers(wide, scale)
        self.tablock2 = nn.Sequential(*(TransposedAttention() for _ in range(2)))
        self.conv2 = nn.Conv2d(wide, narrow, 1)
        self.swintransformer2 = WindowLayers(narrow, scale)
        self.fc_score = _head(narrow, nn.ReLU())
        self.fc_weight = _head(narrow, nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        """(B,) scores of (B, 3, H, W) in [0, 1] of any size."""
        if (shorter := min(image.shape[-2:])) < _SMALLEST:
            image = F.interpolate(image, scale_factor=_SMALLEST / shorter, mode="bilinear")
        # Where a side is hardly longer than a crop, crops begin at the same pixel and are computed once.
        counts = Counter(crop_places(*image.shape[-2:]))
        crops = torch.stack([image[..., y : y + _CROP, x : x + _CROP] for y, x in counts])
        sums = torch.cat([self.sums(some) for some in crops.flatten(0, 1).split(_CROPS_AT_ONCE)])
        times = torch.tensor(list(counts.values()), dtype=image.dtype, device=image.device)
        # Over the patches of all crops, as pyiqa has it, and not the mean of the crops' own scores.
        weighted, weights = torch.einsum("c,cbs->sb", times, sums.unflatten(0, (len(counts), -1)))
        return weighted / weights

    def sums(self, crops: Tensor) -> Tensor:
        """(N, 2) sums over the patches of (N, 3, 224, 224) crops in [0, 1]: of scores times learned weights, of weights."""
        x = self.vit(2 * crops - 1)
        x = self.swintransformer1(self.conv1(self.tablock1(x).unflatten(2, (_SIDE, _SIDE))))
        x = self.swintransformer2(self.conv2(self.tablock2(x.flatten(2)).unflatten(2, (_SIDE, _SIDE))))
        patches = x.flatten(2).transpose(1, 2)
        weights = self.fc_weight(patches)
        return torch.cat([self.fc_score(patches) * weights, weights], dim=2).sum(dim=1)


class VisionTransformer(nn.Module):
    """The first ten blocks of ViT-B/8: (N, 3, 224, 224) in [-1, 1] to the tokens of four of them, (N, 4 * 768, 784)."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, _VIT_DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _SIDE**2, _VIT_DIM))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, _VIT_DIM, _PATCH, _PATCH)})
        self.blocks = nn.ModuleList(TransformerBlock() for _ in range(1 + max(_TAPS)))

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], dim=1) + self.pos_embed
        taps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in _TAPS:
                taps.append(x[:, 1:])
        return torch.cat(taps, dim=2).transpose(1, 2)


class TransformerBlock(nn.Module):
    """Attention and MLP, each after a norm and around a skip: (N, T, 768) -> (N, T, 768)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_VIT_DIM, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(_VIT_DIM, 3 * _VIT_DIM), "proj": nn.Linear(_VIT_DIM, _VIT_DIM)})
        self.norm2 = nn.LayerNorm(_VIT_DIM, eps=1e-6)
        self.mlp = MLP(_VIT_DIM, 4 * _VIT_DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, _VIT_HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TransposedAttention(nn.Module):
    """Attention between channels (the paper's TAB) around a skip: (N, C, 784) -> (N, C, 784)."""

    def __init__(self) -> None:
        super().__init__()
        self.c_q, self.c_k, self.c_v = (nn.Linear(_SIDE**2, _SIDE**2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(self.c_q(x), self.c_k(x), self.c_v(x))
        # The published weights were trained with the transposed map read as if it were not.
        return x + attended.transpose(1, 2).reshape(x.shape)


class WindowLayers(nn.Module):
    """Two layers of attention inside windows (the paper's SSTB), whose outputs are scaled and added to their inputs."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.ModuleList(WindowLayer(dim) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, 28, 28) -> (N, dim, 28, 28)."""
        for layer in self.layers:
            x = x + self.scale * layer(x)
        return x


class WindowLayer(nn.Module):
    """Two blocks, the second with shifted windows, and a convolution: (N, dim, 28, 28) -> (N, dim, 28, 28)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(WindowBlock(dim, shift=0), WindowBlock(dim, shift=_WINDOW // 2))
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))


class WindowBlock(nn.Module):
    """Swin's block: (N, 28, 28, dim) -> (N, 28, 28, dim)."""

    def __init__(self, dim: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, _HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Attention inside windows of 4 x 4 tokens, with a bias by relative position."""

    def __init__(self, dim: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * _WINDOW - 1) ** 2, _HEADS))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, dim) -> (N, H, W, dim)."""
        bias = position_bias(self.relative_position_bias_table, relative_position_index(_WINDOW).to(x.device))
        masks = textbook_shift_masks(_WINDOW, self.shift).to(x) if self.shift else None
        grid = masked_bias(bias, masks)
        return self.proj(window_attention(self.qkv(x), grid, heads=_HEADS, window=_WINDOW, shift=self.shift))


def crop_places(height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of the 20 crops of an image, row by row: multiples of quarters of the room that a crop has.

    Four rows of five; the last rows of the image are therefore in no crop where it is much higher than a crop.
    """
    down, along = ((side - _CROP) // _STEPS for side in (height, width))
    return [(row * down, column * along) for row in range(_STEPS) for column in range(_STEPS + 1)]


def _head(dim: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(0.1), nn.Linear(dim, 1), last)
