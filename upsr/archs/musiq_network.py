"""The network of MUSIQ (Ke, Wang, Wang, Milanfar, Yang: MUSIQ: Multi-scale Image Quality Transformer, ICCV 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs.transformer import MLP

_LONGER_SIDES = (224, 384)
"""Of the two reduced images; the third is the image itself."""
_PATCH = 32
_GRID = 10
"""Rows and columns of the table of positions, which the patches of every image share."""
_DIM, _HIDDEN, _HEADS, _BLOCKS = 384, 1152, 6, 14
_WIDTH = 64
"""Channels of the first convolution of patches."""
_PATCHES_AT_ONCE = 256
"""Convolved together: 64 MiB a feature map, however large the image is."""


class MUSIQNetwork(nn.Module):
    """The quality of images of any size, as one number each.

    Patches of the image at three scales are the tokens of one transformer. Names and shapes of the weights are those of the
    published files in PyTorch. The network computes what these files were converted for: exact GELU, and weights that are
    standardised by the unbiased deviation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_root = StandardisedConv(3, _WIDTH, 7, stride=2)
        self.gn_root = nn.GroupNorm(32, _WIDTH, eps=1e-6)
        self.block1 = Bottleneck(_WIDTH)
        self.embedding = nn.Linear(4 * _WIDTH * (_PATCH // 4) ** 2, _DIM)
        self.transformer_encoder = Encoder()
        self.head = nn.Linear(_DIM, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B,) scores of (B, 3, H, W) in [0, 1]; see :func:`reduced_sizes` for the smallest.

        The scores of the KonIQ-10k weights are its mean opinion scores, 0 to 100.
        """
        image = 2 * image - 1
        tokens, positions, scales = [], [], []
        for scale, size in enumerate((*reduced_sizes(*image.shape[-2:]), image.shape[-2:])):
            scaled = F.interpolate(image, size, mode="bicubic") if scale < len(_LONGER_SIDES) else image
            patches, (rows, columns) = _patches(scaled)
            tokens.append(torch.stack([self._tokens(patches_of_one) for patches_of_one in patches]))
            positions.append(_hashed_positions(rows, columns))
            scales.append(torch.full((rows * columns,), scale))
        places = (torch.cat(indices).to(image.device) for indices in (positions, scales))
        return self.head(self.transformer_encoder(torch.cat(tokens, dim=1), *places)).squeeze(-1)

    def _tokens(self, patches: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, 384)."""
        return torch.cat([self._embedded(some) for some in patches.split(_PATCHES_AT_ONCE)])

    def _embedded(self, patches: Tensor) -> Tensor:
        x = F.relu(self.gn_root(self.conv_root(patches)))
        x = self.block1(F.max_pool2d(_padded(x, 3, 2), 3, stride=2))  # after ReLU zeros are no maximum
        return self.embedding(x.permute(0, 2, 3, 1).flatten(1))


class Encoder(nn.Module):
    """A transformer with a table of positions and one of scales; the score is read from a token of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, _DIM))
        self.posembed_input = nn.ParameterDict({"position_emb": torch.zeros(1, _GRID**2, _DIM)})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": torch.zeros(1 + len(_LONGER_SIDES), _DIM)})
        self.transformer = nn.ModuleDict({f"encoderblock_{number}": EncoderBlock() for number in range(_BLOCKS)})
        self.encoder_norm = nn.LayerNorm(_DIM, eps=1e-6)

    def forward(self, tokens: Tensor, positions: Tensor, scales: Tensor) -> Tensor:
        """(B, N, 384) with (N,) entries of both tables -> (B, 384)."""
        places = self.posembed_input["position_emb"][0, positions] + self.scaleembed_input["scale_emb"][scales]
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens + places], dim=1)
        for block in self.transformer.values():
            x = block(x)
        return self.encoder_norm(x[:, 0])


class EncoderBlock(nn.Module):
    """Attention and MLP, each after a norm and around a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_DIM, eps=1e-6)
        self.attention = nn.ModuleDict({name: nn.Linear(_DIM, _DIM) for name in ("query", "key", "value", "out")})
        self.norm2 = nn.LayerNorm(_DIM, eps=1e-6)
        self.mlp = MLP(_DIM, _HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, 384) -> (B, N, 384)."""
        normed = self.norm1(x)
        heads = (
            self.attention[name](normed).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        x = x + self.attention["out"](F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Bottleneck(nn.Module):
    """The block of a ResNet with group norm and standardised weights: (N, C, H, W) -> (N, 4C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = StandardisedConv(channels, channels, 1)
        self.gn1 = nn.GroupNorm(32, channels, eps=1e-4)
        self.conv2 = StandardisedConv(channels, channels, 3)
        self.gn2 = nn.GroupNorm(32, channels, eps=1e-4)
        self.conv3 = StandardisedConv(channels, 4 * channels, 1)
        self.gn3 = nn.GroupNorm(32, 4 * channels, eps=1e-4)
        self.conv_proj = StandardisedConv(channels, 4 * channels, 1)
        self.gn_proj = nn.GroupNorm(32, 4 * channels, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.gn1(self.conv1(x)))
        h = F.relu(self.gn2(self.conv2(h)))
        return F.relu(self.gn_proj(self.conv_proj(x)) + self.gn3(self.conv3(h)))


class StandardisedConv(nn.Conv2d):
    """A convolution by weights of mean 0 and deviation 1 in each filter; ceil(side / stride) pixels a side, as in TensorFlow."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, ceil(H / stride), ceil(W / stride))."""
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (deviation + 1e-5)
        return F.conv2d(_padded(x, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


def reduced_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of the two images whose longer sides are 224 and 384.

    Raises:
        ValueError: the shorter side would have no pixel left.
    """
    sizes = [tuple(round(side * (longer / max(height, width))) for side in (height, width)) for longer in _LONGER_SIDES]
    if min(sizes[0]) < 1:
        raise ValueError(f"{width}x{height} pixels have no shorter side where the longer one is {_LONGER_SIDES[0]}")
    return [(rows, columns) for rows, columns in sizes]


def _padded(x: Tensor, window: int, stride: int) -> Tensor:
    """Zeros around a map, so that a window at every ``stride`` pixels gives ceil(side / stride): an odd one at the end."""
    missing = (max((-(-side // stride) - 1) * stride + window - side, 0) for side in (x.shape[-1], x.shape[-2]))
    return F.pad(x, [part for zeros in missing for part in (zeros // 2, zeros - zeros // 2)])


def _patches(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, N, 3, 32, 32) row by row, the image amid zeros; and the numbers of rows and columns."""
    tiles = _padded(image, _PATCH, _PATCH).unfold(2, _PATCH, _PATCH).unfold(3, _PATCH, _PATCH)
    rows, columns = tiles.shape[2:4]
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(1, 2), (rows, columns)


def _hashed_positions(rows: int, columns: int) -> Tensor:
    """(rows * columns,) entries of the table of positions: the nearest of its 10 rows and columns."""
    row, column = (torch.arange(count) * _GRID // count for count in (rows, columns))
    return (row[:, None] * _GRID + column).flatten()
