"""Attention in a compiled kernel of this package: ``attention.cpp``, where the installation found a compiler for it.

Torch's own kernel reaches a quarter of a processor's speed with g's 24 channels a head, and needs all tokens gathered before and
after. Where ours is missing, or does not take what it is given, torch's computes the same up to rounding.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from upsr.archs.window_attention import BiasGrid, WindowOrder

Bias = tuple[tuple[int, int], list[Tensor]]
"""Rows and columns of a :data:`BiasGrid`, and its matrices as :func:`kernels_bias` makes them."""

_TOKENS, _DIM = 32, 8
"""Groups are multiples of the one, channels of a head multiples of the other."""


@cache
def kernel() -> tuple[Any, int] | str:
    """``upsr_attention`` of the compiled library and the bits of its vectors, or in words why there is none."""
    # The interpreter's own suffix comes first; a file for another interpreter would serve as well, but is not looked for.
    paths = [Path(__file__).with_name(f"_attention{suffix}") for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return "not built: that needs Linux, x86-64 and a C++ compiler where upsr is installed"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as e:
        return f"cannot be loaded: {e}"
    if not (width := library.upsr_attention_width()):
        return "needs AVX2"
    function, address, count = library.upsr_attention, ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [address] * 4 + [count] * 4 + [ctypes.c_float, ctypes.c_int, ctypes.c_int]
    return function, width


def takes(qkv: Tensor, tokens: int, heads: int) -> bool:
    """The kernel computes the attention of groups of ``tokens`` in ``qkv`` (..., 3 * C)."""
    return (
        qkv.device.type == "cpu"
        and qkv.dtype == torch.float32
        and tokens % _TOKENS == 0
        and qkv.shape[-1] % (3 * heads * _DIM) == 0
        and not (torch.is_grad_enabled() and qkv.requires_grad)
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(kernel(), str)
    )


def kernels_bias(grid: BiasGrid) -> Bias:
    """Bias and mask as the kernel reads them: (heads, keys, queries) in units of log2."""
    matrices = [(matrix.transpose(1, 2) * math.log2(math.e)).contiguous() for row in grid for matrix in row]
    return (len(grid), len(grid[0])), matrices


def window_attention(qkv: Tensor, bias: Bias, *, heads: int, window: int, shift: int) -> Tensor:
    """:func:`upsr.archs.window_attention.window_attention`, with a bias of :func:`kernels_bias`."""
    batch, height, width, channels = qkv.shape
    kinds, matrices = bias
    order = WindowOrder.build(batch, height, width, window, shift, kinds, qkv.device)
    return attention(
        qkv.reshape(-1, channels),
        order.places,
        order.counts,
        matrices,
        heads=heads,
        scale=(channels // (3 * heads)) ** -0.5,
    ).view(batch, height, width, -1)


def attention(
    qkv: Tensor, places: Tensor, counts: Sequence[int], biases: Sequence[Tensor | None], *, heads: int, scale: float
) -> Tensor:
    """Multi-head attention inside groups of rows.

    Args:
        qkv: (n, 3*C), channels laid out as (q | k | v) x head x dimension; :func:`takes` says whether it suits.
        places: (n,) int64, the rows group by group: a permutation.
        counts: groups of each kind, in the order of ``places``; groups are equally large.
        biases: of each kind, of :func:`kernels_bias`, or ``None``.
        heads: number of heads.
        scale: factor of q k.

    Returns:
        (n, C), the rows in the order of ``qkv``.

    Raises:
        MemoryError: there is none for the kernel's work.
    """
    found = kernel()
    assert not isinstance(found, str)
    function, width = found
    qkv, (rows, channels) = qkv.contiguous(), qkv.shape
    tokens, dim = rows // sum(counts), channels // (3 * heads)
    out = qkv.new_empty(rows, channels // 3)
    first = 0
    with record_function("upsr::attention"):
        for count, bias in zip(counts, biases, strict=True):
            address = places.data_ptr() + first * places.element_size()
            failed = function(
                qkv.data_ptr(), address, bias.data_ptr() if bias is not None else None, out.data_ptr(),
                count, tokens, heads, dim, scale * math.log2(math.e), torch.get_num_threads(), width,
            )  # fmt: skip
            if failed:
                raise MemoryError(f"no memory for the attention of {count} groups of {tokens} tokens")
            first += count * tokens
    return out
