"""Layers whose weights are put into oneDNN's own layout once, not at each call: for inference on CPUs.

Small maps of wide layers spend as long on the weights' layout as on the convolution itself, and products of fixed weights
run through oneDNN instead of torch's default library, which on some processors uses half of the vector unit.

The operators are those that torch's own compiler uses for CPUs. They are no part of its documented interface: all uses of
them are in this file.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from upsr.accelerate.processor import cpu_capabilities
from upsr.accelerate.twin import Twin
from upsr.archs.layers import PointwiseConv


def can_pack(weight: Tensor | None) -> bool:
    """oneDNN takes weights of this type here. Weights that are computed at each call are none (``None``)."""
    if weight is None or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def packed_linear(weight: Tensor, rows: int) -> Tensor:
    """(Cout, Cin) in the layout that suits a product with (rows, Cin)."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` with a weight of :func:`packed_linear`."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def packed_conv(weight: Tensor, shape: torch.Size, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """(Cout, Cin / groups, k, k) in the layout that suits maps of ``shape`` (B, Cin, H, W)."""
    return torch.ops.mkldnn._reorder_convolution_weight(
        weight, [padding] * 2, [stride] * 2, [1, 1], groups, list(shape)
    )


def conv(
    x: Tensor, packed: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """``F.conv2d`` with a weight of :func:`packed_conv`."""
    return torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, [padding] * 2, [stride] * 2, [1, 1], groups, "none", [], ""
    )


def packed_transposed(weight: Tensor, shape: torch.Size) -> Tensor:
    """(Cin, Cout, 4, 4), which doubles maps of ``shape`` (B, Cin, H, W), in the layout that suits them."""
    return torch.ops.mkldnn._reorder_convolution_transpose_weight(
        weight, [1, 1], [0, 0], [2, 2], [1, 1], 1, list(shape)
    )


def conv_transposed(x: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    """``F.conv_transpose2d`` with stride 2, padding 1 and a weight of :func:`packed_transposed`."""
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        x, packed, bias, [1, 1], [0, 0], [2, 2], [1, 1], 1, "none", [], ""
    )


def packed_stack(weights: Tensor, rows: int) -> Tensor:
    """(n, Cout, Cin) in the form that suits :func:`stacked` products with (rows, n, Cin)."""
    if _torchs_products_are_fastest():
        return weights.transpose(1, 2).contiguous()
    n, outputs, channels = weights.shape
    return packed_conv(weights.reshape(n * outputs, channels, 1, 1), torch.Size([1, n * channels, rows, 1]), groups=n)


def stacked(x: Tensor, packed: Tensor) -> Tensor:
    """Products of n pairs of matrices in one call: (rows, n, Cin) with weights of :func:`packed_stack` -> (rows, n, Cout)."""
    if not packed.is_mkldnn:
        return torch.bmm(x.transpose(0, 1), packed).transpose(0, 1)
    rows, n, _ = x.shape
    grouped = x.reshape(1, rows, 1, -1).permute(0, 3, 1, 2)
    return conv(grouped, packed, None, groups=n).permute(0, 2, 3, 1).view(rows, n, -1)


@cache
def _torchs_products_are_fastest() -> bool:
    """Many small products are faster in torch's default library than as a convolution with groups: so on Intel's processors,
    which the library is made for."""
    name = str(cpu_capabilities().get("cpu_name", ""))
    return torch.backends.mkl.is_available() and name.startswith("Intel")


class PackedLinear(Twin, nn.Linear):
    """A linear layer with a packed weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return _product(self, x) if self.takes_packed(x) else super().forward(x)


class PackedPointwise(Twin, PointwiseConv):
    """A 1 x 1 convolution with a packed weight, of maps with channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H, W), in the memory format of ``x``."""
        pixels = x.permute(0, 2, 3, 1)
        if not self.takes_packed(x) or not pixels.is_contiguous():
            return super().forward(x)
        return _product(self, pixels).permute(0, 3, 1, 2)


def _product(layer: PackedLinear | PackedPointwise, x: Tensor) -> Tensor:
    """(B, ..., Cin) -> (B, ..., Cout)."""
    rows = x[:1].numel() // x.shape[-1]
    weight = layer.keep("weight", lambda: packed_linear(layer.weight.flatten(1), rows))
    if len(x) > 1 and (x.dim() == 2 or x.dtype == torch.bfloat16):
        # The order of a product's sums depends on the number of rows where they are few, and with matrix units always: a batch
        # would change each image's last bits.
        return torch.cat([linear(image, weight, layer.bias) for image in x.split(1)])
    return linear(x, weight, layer.bias)
