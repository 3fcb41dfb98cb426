"""Attention in groups of tokens.

Torch's own kernel reaches a quarter of a processor's speed with g's 24 channels a head, and needs all tokens gathered before and
after; this one reads and writes them where they stand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from upsr.accelerate.native import library
from upsr.archs.window_attention import BiasGrid, WindowOrder

Bias = tuple[tuple[int, int], list[Tensor]]
"""Rows and columns of a :data:`BiasGrid`, and its matrices as :func:`kernels_bias` makes them."""

_TOKENS, _DIM = 32, 8
"""Groups are multiples of the one, channels of a head multiples of the other."""


def takes(qkv: Tensor, tokens: int, heads: int) -> bool:
    """The kernel computes the attention of groups of ``tokens`` in ``qkv`` (..., 3 * C)."""
    return tokens % _TOKENS == 0 and qkv.shape[-1] % (3 * heads * _DIM) == 0 and library.take(qkv)


def kernels_bias(grid: BiasGrid) -> Bias:
    """Bias and mask as the kernel reads them: (heads, keys, queries) float32 in units of log2."""
    matrices = [(matrix.float().transpose(1, 2) * math.log2(math.e)).contiguous() for row in grid for matrix in row]
    return (len(grid), len(grid[0])), matrices


def window_attention(qkv: Tensor, bias: Bias, *, heads: int, window: int, shift: int) -> Tensor:
    """:func:`upsr.archs.window_attention.window_attention`, with a bias of :func:`kernels_bias`."""
    batch, height, width, channels = qkv.shape
    kinds, matrices = bias
    order = WindowOrder.build(batch, height, width, window, shift, kinds, qkv.device)
    scale = (channels // (3 * heads)) ** -0.5
    rows = attention(qkv.reshape(-1, channels), order.places, order.counts, matrices, heads=heads, scale=scale)
    return rows.view(batch, height, width, -1)


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
    """
    qkv, (rows, channels) = qkv.contiguous(), qkv.shape
    tokens, dim = rows // sum(counts), channels // (3 * heads)
    out = qkv.new_empty(rows, channels // 3)
    first = 0
    for count, bias in zip(counts, biases, strict=True):
        library.call(
            "attention", qkv.data_ptr(), places.data_ptr() + first * places.element_size(),
            None if bias is None else bias.data_ptr(), out.data_ptr(), count, tokens, heads, dim, scale * math.log2(math.e),
            like=qkv,
        )  # fmt: skip
        first += count * tokens
    return out
