"""Layers whose weights are put into oneDNN's own layout once, not at each call: on CPUs, for inference.

Small maps of wide layers spend as long on the weights' layout as on the convolution itself, and products of fixed weights
run through oneDNN instead of torch's default library, which on some processors uses half of the vector unit. What is
computed is the same; elsewhere, or where gradients are needed, these are torch's layers.

The operators are those that torch's own compiler uses for CPUs. They are no part of its documented interface: what depends on
them is all in this file.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.archs.derived import Derived
from upsr.processor import cpu_capabilities


def packs(x: Tensor, weight: Tensor, *kept: Derived[Tensor]) -> bool:
    """Whether a packed form of ``weight`` can be applied to ``x``; if not, what is kept of it is dropped.

    Weights that are themselves computed at each call (see :mod:`upsr.archs.precision`) are not packed: that would keep what
    they are there to save.
    """
    possible = (
        x.device.type == "cpu"
        and isinstance(weight, nn.Parameter)
        and x.dtype == weight.dtype
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()))
    )
    if not possible:
        for derived in kept:
            derived.drop()
    return possible


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
    """Whether many small products are faster in torch's default library than as a convolution with groups: so on Intel's
    processors, which the library is made for."""
    name = str(cpu_capabilities().get("cpu_name", ""))
    return torch.backends.mkl.is_available() and name.startswith("Intel")


class Linear(nn.Linear):
    """``nn.Linear`` with packed weights."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.packed: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return product(x, self.weight, self.bias, self.packed)


class PointwiseConv(nn.Conv2d):
    """A 1 x 1 convolution as a matrix product.

    On a CPU the 1 x 1 convolutions of oneDNN, and group norms of maps with channels last, add up in an order that depends
    on the number of threads: two processes would not give the pixels of one. Matrix products do not between one and two
    threads, and take no longer.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.packed: Derived[Tensor] = Derived()

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H, W), in the memory format of ``x``."""
        pixels = x.permute(0, 2, 3, 1)
        if pixels.is_contiguous():
            return product(pixels, self.weight, self.bias, self.packed).permute(0, 3, 1, 2)
        self.packed.drop()
        weight = self.weight.flatten(1).expand(x.shape[0], -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])


def product(x: Tensor, weight: Tensor, bias: Tensor, packed: Derived[Tensor]) -> Tensor:
    """(B, ..., Cin) with (Cout, Cin, ...) -> (B, ..., Cout); ``packed`` keeps the packed weight."""
    if not packs(x, weight, packed):
        return F.linear(x, weight.flatten(1), bias)
    rows = x[:1].numel() // x.shape[-1]
    kept = packed(weight, lambda: packed_linear(weight.flatten(1), rows))
    if len(x) > 1 and (x.dim() == 2 or x.dtype == torch.bfloat16):
        # A few rows add up in another order than one does, and with matrix units it depends on how many there are; but no
        # image may depend on the others of its batch.
        return torch.cat([linear(image, kept, bias) for image in x.split(1)])
    return linear(x, kept, bias)
