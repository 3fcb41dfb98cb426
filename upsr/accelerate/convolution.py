"""Faster exact 3 x 3 convolutions for inference: Winograd, transposed and packed forms. All give ``nn.Conv2d``'s result up to
rounding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.accelerate import packed
from upsr.accelerate.native import winograd as native
from upsr.accelerate.twin import Twin
from upsr.accelerate.winograd import TILE, band_of, winograd, winograd_weight
from upsr.archs.layers import ConditionedConv, DoublingConv

_FEWEST_TILES = 64
"""Below, Winograd's algorithm reads more weights than it saves multiplications."""

_ROWS = 32
"""Rows of an image that are multiplied at once."""

_VECTOR = 16
"""Numbers in a vector register."""


class Conv3x3(Twin, nn.Conv2d):
    """A 3 x 3 convolution with padding 1, with a packed weight or by Winograd's algorithm."""

    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H / stride, W / stride)."""
        if not self.takes_packed(x):
            return nn.Conv2d.forward(self, x)
        weight, stride = self.weight, self.stride[0]
        x = x.contiguous(memory_format=torch.channels_last)
        if stride == 1 and native.takes(x, self.out_channels):
            return native.conv(x, *self.keep("native", lambda: (native.kernels_weight(weight), self.bias.float())))
        if self._needs_fewer_products(x):
            tiles = band_of(self.in_channels, self.out_channels)
            return winograd(x, self.keep("transformed", lambda: winograd_weight(weight, tiles)), self.bias)
        kept = self.keep("packed", lambda: packed.packed_conv(weight, x.shape, stride=stride, padding=1))
        return packed.conv(x, kept, self.bias, stride=stride, padding=1)

    def _needs_fewer_products(self, x: Tensor) -> bool:
        return (
            x.dtype == torch.float32
            and self.stride[0] == 1
            and min(self.in_channels, self.out_channels) >= 64
            and x.shape[2] * x.shape[3] >= _FEWEST_TILES * TILE**2  # of one image, so that its batch does not matter
        )


class FirstConv(Conv3x3, ConditionedConv):
    """The first layer, which brings its inputs into the network's type and, on a CPU, puts channels last."""

    def forward(self, state: Tensor, cond: Tensor) -> Tensor:  # type: ignore[override]
        """See :class:`ConditionedConv`."""
        return Conv3x3.forward(self, self.taken(torch.cat([state, cond], dim=1)))

    def given(self, cond: Tensor) -> GivenFirstConv:
        """The layer for several states with one condition, (B, cond_channels, H, W)."""
        return GivenFirstConv(self, cond)

    def taken(self, x: Tensor) -> Tensor:
        """The map in the network's type and layout."""
        x = x.to(self.bias.dtype)
        return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


class GivenFirstConv(nn.Module):
    """A first layer that has computed the condition's share of its result; the condition it is called with is that one."""

    def __init__(self, first: FirstConv, cond: Tensor) -> None:
        super().__init__()
        self.first = first
        # A plain tensor, not a buffer: it lasts as long as the work on one image.
        self._share = F.conv2d(first.taken(cond), first.weight[:, first.state_channels :], first.bias, padding=1)

    def forward(self, state: Tensor, cond: Tensor) -> Tensor:
        """See :class:`ConditionedConv`."""
        first = self.first
        x = first.taken(state)
        if not first.takes_packed(x):
            return F.conv2d(x, first.weight[:, : first.state_channels], padding=1) + self._share
        kept = first.keep(
            "state", lambda: packed.packed_conv(first.weight[:, : first.state_channels], x.shape, padding=1)
        )
        return packed.conv(x, kept, None, padding=1) + self._share


class TransposedDoubling(Twin, DoublingConv):
    """The convolution of the doubled map as a transposed convolution of the map itself.

    Of the nine pixels under the kernel four are different, so 4 x 4 weights multiply less than half as often, and the doubled
    map is never held.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, 2H, 2W)."""
        weight = self.weight
        if self.takes_packed(x):
            if native.takes(x, self.out_channels):
                parts = self.keep("native", lambda: (native.doubling_weight(weight.float()), self.bias.float()))
                return native.conv(x.contiguous(memory_format=torch.channels_last), *parts, scale=2)
            kept = self.keep("packed", lambda: packed.packed_transposed(_of_doubled(weight), x.shape))
            return packed.conv_transposed(x, kept, self.bias)
        return F.conv_transpose2d(x, _of_doubled(weight).to(x.dtype), self.bias.to(x.dtype), stride=2, padding=1)


class ImageConv(Twin, nn.Conv2d):
    """A 3 x 3 convolution with padding 1 to the few channels of an image, computed in the type of its weight.

    Each pixel is multiplied by the weights of all nine places at once, which fills a vector where three channels do not, and
    the products are added where they belong.
    """

    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H, W)."""
        weight = self.weight
        if not self.takes_packed(x):
            return super().forward(x.to(weight.dtype))
        batch, _, height, width = x.shape
        kept = self.keep("packed", lambda: packed.packed_linear(_places(weight), _ROWS * width))
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
    """(Cout, Cin, 3, 3) -> (9 Cout or a few rows of zeros more, Cin): the contributions of a pixel to its neighbours."""
    products = weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
    return F.pad(products, (0, 0, 0, -len(products) % _VECTOR))


def _of_doubled(weight: Tensor) -> Tensor:
    """(Cout, Cin, 3, 3) -> (Cin, Cout, 4, 4), whose stride-2 transposed convolution is the one of the doubled map."""
    for dim in (2, 3):
        first, second, third = weight.unbind(dim)
        weight = torch.stack([third, second + third, first + second, first], dim)
    return weight.transpose(0, 1)
