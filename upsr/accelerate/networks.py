"""Twins of attention layers and of UPSR's denoiser."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from upsr.accelerate.convolution import FirstConv
from upsr.accelerate.twin import Twin, shallow_copy
from upsr.archs.atd import ShiftedWindowAttention
from upsr.archs.swin_unet import WindowAttention
from upsr.archs.unet_upsr import UNetModelSwin
from upsr.archs.window_attention import BiasGrid

_STRIP_VALUES = 1 << 26
"""Values of an image's map at the HR size that are held at once; a larger image is upsampled strip by strip."""

_TAIL_MARGIN = 2
"""LR rows beside a strip that its HR pixels depend on."""


class KeptBias(Twin, WindowAttention):
    """The bias and mask of each kind of window are added once."""

    def bias(self) -> BiasGrid:
        """See :class:`WindowAttention`."""
        return super().bias() if torch.compiler.is_compiling() else self.keep("bias", super().bias)


class KeptBiasOfG(Twin, ShiftedWindowAttention):
    """As :class:`KeptBias`, for g."""

    def bias(self, index: Tensor) -> BiasGrid:
        """See :class:`ShiftedWindowAttention`."""
        if torch.compiler.is_compiling():
            return super().bias(index)
        return self.keep("bias", lambda: super(KeptBiasOfG, self).bias(index))


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
        rows = max(_STRIP_VALUES // values, 4 * _TAIL_MARGIN)
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
