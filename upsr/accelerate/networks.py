"""Twins of attention layers and of UPSR's denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from upsr.accelerate.convolution import FirstConv
from upsr.accelerate.native import attention as native
from upsr.accelerate.twin import Twin, shallow_copy
from upsr.accelerate.winograd import TILE
from upsr.archs.atd import CategoryAttention, ShiftedWindowAttention
from upsr.archs.swin_unet import WindowAttention
from upsr.archs.unet_upsr import UNetModelSwin
from upsr.archs.window_attention import BiasGrid, window_attention

_STRIP_VALUES = 1 << 26
"""Values of an image's map at the HR size that are held at once; a larger image is upsampled strip by strip."""

_TAIL_MARGIN = TILE
"""LR rows beside a strip: its HR pixels depend on two, and at multiples of a tile Winograd's tiles lie as in the whole."""


class FastWindows(Twin):
    """Attention in windows, in the compiled kernel where it takes the tokens; bias and mask are added once for each kind."""

    heads: int
    window: int
    shift: int

    def attended(self, qkv: Tensor, bias: Callable[[], BiasGrid]) -> Tensor:
        """See :func:`window_attention`."""
        layout = {"heads": self.heads, "window": self.window, "shift": self.shift}
        if native.takes(qkv, self.window**2, self.heads):
            prepared = self.keep("native bias", lambda: native.kernels_bias(bias()))
            return native.window_attention(qkv, prepared, **layout)
        grid = bias() if torch.compiler.is_compiling() else self.keep("bias", bias)
        return window_attention(qkv, grid, **layout)


class FastWindowAttention(FastWindows, WindowAttention):
    """The denoiser's."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`WindowAttention`."""
        return self.proj(self.attended(self.qkv(x), self.bias))


class FastWindowAttentionOfG(FastWindows, ShiftedWindowAttention):
    """g's."""

    def forward(self, qkv: Tensor, index: Tensor) -> Tensor:
        """See :class:`ShiftedWindowAttention`."""
        return self.proj(self.attended(qkv, lambda: self.bias(index)))


class FastCategoryAttention(Twin, CategoryAttention):
    """In the compiled kernel where it takes the tokens."""

    def attended(self, qkv: Tensor, order: Tensor) -> Tensor:
        """See :class:`CategoryAttention`."""
        (batch, n, channels), size = qkv.shape, min(qkv.shape[1], self.category_size)
        if n % size or not native.takes(qkv, size, self.heads):
            return super().attended(qkv, order)
        scale = self.keep("scale", lambda: self.scale().item())
        rows = qkv.reshape(-1, channels)
        return native.attention(rows, order, [batch * n // size], [None], heads=self.heads, scale=scale).view(
            batch, n, -1
        )


class FastUNet(Twin, UNetModelSwin):
    """Upsamples in strips that bound the memory, and computes a condition's share of the first layer once."""

    def given(self, lq: Tensor) -> Self:
        """See :meth:`DenoisingNetwork.given`."""
        first = self.input_blocks.get_submodule("0.0")
        assert isinstance(first, FirstConv)
        return _with_module(self, ["input_blocks", "0", "0"], first.given(lq))

    def tail(self, h: Tensor) -> Tensor:
        """See :meth:`UNetModelSwin.tail`."""
        h = self.conv_before_upsample(h)
        height, values = h.shape[2], self.scale**2 * h.shape[1] * h.shape[3]
        rows = max(_STRIP_VALUES // values // TILE * TILE, 2 * _TAIL_MARGIN)
        if torch.compiler.is_compiling() or rows >= height:
            return self._upsampled(h)
        strips = []
        for top in range(0, height, rows):
            first, last = max(top - _TAIL_MARGIN, 0), min(top + rows + _TAIL_MARGIN, height)
            inside = slice((top - first) * self.scale, (min(top + rows, height) - first) * self.scale)
            strips.append(self._upsampled(h[:, :, first:last])[:, :, inside])
        return torch.cat(strips, dim=2)

    def _upsampled(self, h: Tensor) -> Tensor:
        """(B, num_feat, h, w) -> (B, out_channels, scale*h, scale*w), with activations in place."""
        for i in range(1, self.doublings + 1):
            h = F.leaky_relu_(self.get_submodule(f"conv_up{i}")(h), 0.2)
        return self.conv_last(F.leaky_relu_(self.conv_hr(h), 0.2))


def _with_module(network: nn.Module, path: list[str], module: nn.Module) -> Any:
    """A shallow copy of the network with one module exchanged."""
    view = shallow_copy(network)
    name, *rest = path
    view._modules[name] = _with_module(network.get_submodule(name), rest, module) if rest else module
    return view
