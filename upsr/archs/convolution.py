"""3 x 3 convolutions with fewer multiplications than they seem to need.

All forms give what ``nn.Conv2d`` gives up to rounding, and are for inference: with gradients the usual form runs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs import packed
from upsr.archs.derived import Derived
from upsr.archs.packed import packs
from upsr.archs.winograd import TILE, band_of, winograd, winograd_weight

_FEWEST_TILES = 64
"""Below, Winograd's algorithm reads more weights than it saves multiplications."""

_ROWS = 32
"""Rows of an image that are multiplied at once."""

_VECTOR = 16
"""Numbers in a vector register."""


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution with padding 1, for inference on CPUs with packed weights or by Winograd's algorithm."""

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1)
        self.packed: Derived[Tensor] = Derived()
        self.transformed: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H / stride, W / stride)."""
        weight, stride = self.weight, self.stride[0]
        if not packs(x, weight, self.packed, self.transformed):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        if self._needs_fewer_products(x):
            tiles = band_of(self.in_channels, self.out_channels)
            return winograd(x, self.transformed(weight, lambda: winograd_weight(weight, tiles)), self.bias)
        kept = self.packed(weight, lambda: packed.packed_conv(weight, x.shape, stride=stride, padding=1))
        return packed.conv(x, kept, self.bias, stride=stride, padding=1)

    def _needs_fewer_products(self, x: Tensor) -> bool:
        return (
            x.dtype == torch.float32
            and self.stride[0] == 1
            and min(self.in_channels, self.out_channels) >= 64
            and x.shape[2] * x.shape[3] >= _FEWEST_TILES * TILE**2  # of one image, so that its batch does not matter
        )


class ConditionedConv(Conv3x3):
    """A :class:`Conv3x3` of a state and a condition, whose channels follow each other.

    The condition's share of the result can be computed once for many states.
    """

    def __init__(self, state_channels: int, cond_channels: int, out_channels: int) -> None:
        super().__init__(state_channels + cond_channels, out_channels)
        self.state_channels = state_channels
        self.packed_state: Derived[Tensor] = Derived()

    def share(self, cond: Tensor) -> Tensor:
        """(B, cond_channels, H, W) -> (B, Cout, H, W), bias included."""
        return F.conv2d(cond, self.weight[:, self.state_channels :], self.bias, padding=1)

    def with_share(self, state: Tensor, share: Tensor) -> Tensor:
        """(B, state_channels, H, W) and the condition's share -> the whole result, (B, Cout, H, W)."""
        weight = self.weight
        part = weight[:, : self.state_channels]
        if not packs(state, weight, self.packed_state):
            return F.conv2d(state, part, padding=1) + share
        kept = self.packed_state(weight, lambda: packed.packed_conv(part, state.shape, padding=1))
        return packed.conv(state, kept, None, padding=1) + share


class DoublingConv(nn.Conv2d):
    """A 3 x 3 convolution with padding 1 of the image doubled by nearest neighbours.

    Of the nine pixels under the kernel four are different, so it is a transposed convolution with 4 x 4 weights, which
    multiplies less than half as often and never holds the doubled image.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.packed: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, 2H, 2W)."""
        weight = self.weight
        if packs(x, weight, self.packed):
            kept = self.packed(weight, lambda: packed.packed_transposed(_of_doubled(weight), x.shape))
            return packed.conv_transposed(x, kept, self.bias)
        if torch.is_grad_enabled():
            return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))
        return F.conv_transpose2d(x, _of_doubled(weight).to(x.dtype), self.bias.to(x.dtype), stride=2, padding=1)


class ImageConv(nn.Conv2d):
    """A 3 x 3 convolution with padding 1 to the few channels of an image, computed in the type of its weights.

    Each pixel is multiplied by the weights of all nine places at once, which fills a vector where three channels do not, and
    what comes out is added where it belongs.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.packed: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H, W)."""
        weight = self.weight
        batch, _, height, width = x.shape
        if not packs(x.new_empty(0, dtype=weight.dtype), weight, self.packed):
            return super().forward(x.to(weight.dtype))
        kept = self.packed(weight, lambda: packed.packed_linear(_places(weight), _ROWS * width))
        out = weight.new_zeros(batch, height + 2, width + 2, self.out_channels)
        for image, target in zip(x.permute(0, 2, 3, 1), out, strict=True):
            for top in range(0, height, _ROWS):
                rows = image[top : top + _ROWS].to(weight.dtype)
                parts = packed.linear(rows, kept, None)[..., : 9 * self.out_channels].unflatten(-1, (3, 3, -1))
                for i in range(3):
                    for j in range(3):
                        target[top + i : top + i + len(rows), j : j + width] += parts[:, :, i, j]
        return (out[:, 1:-1, 1:-1] + self.bias).permute(0, 3, 1, 2)


def _places(weight: Tensor) -> Tensor:
    """(Cout, Cin, 3, 3) -> (9 Cout or a few rows of zeros more, Cin): what a pixel adds to its neighbours."""
    products = weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
    return F.pad(products, (0, 0, 0, -len(products) % _VECTOR))


def _of_doubled(weight: Tensor) -> Tensor:
    """(Cout, Cin, 3, 3) -> (Cin, Cout, 4, 4), whose stride-2 transposed convolution is the one of the doubled image."""
    for dim in (2, 3):
        first, second, third = weight.unbind(dim)
        weight = torch.stack([third, second + third, first + second, first], dim)
    return weight.transpose(0, 1)
