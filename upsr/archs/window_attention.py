"""Attention inside windows of an image, shared by the denoiser and g.

A shifted window layer masks some windows and not others, but there are only a few kinds of windows: those in the
last row of windows, those in the last column, their corner, and the rest. All windows of a kind share one matrix
"position bias + mask", so each kind is one fused attention call, and nothing of the size
(windows, heads, tokens, tokens) is ever built. Tokens are brought into the order of the windows, kind by kind, by one
gather, and back by another; shifting is part of the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.archs.reorder import inverse, reordered

MASKED = -100.0
"""The value added to a logit to mask it."""

BiasGrid = Sequence[Sequence[Tensor]]
"""Bias + mask by kind of window, each (heads, tokens, tokens). One row serves all rows of windows; of two rows, the
second serves the last row of windows. Columns likewise."""


def relative_position_index(window: int) -> Tensor:
    """(N, N) int64, N = window^2: where the bias of tokens i and j stands in a ((2 window - 1)^2, heads) table."""
    coordinates = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    difference = coordinates[:, :, None] - coordinates[:, None, :] + window - 1
    return difference[0] * (2 * window - 1) + difference[1]


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """(heads, N, N) bias from a table and :func:`relative_position_index`."""
    return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).contiguous()


def textbook_shift_masks(window: int, shift: int) -> Tensor:
    """Swin's masks of a shifted layer, (2, 2, N, N): rolled-in rows do not see the others, nor do rolled-in columns."""
    row, column = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    rows, columns = (_differs(place >= window - shift) for place in (row, column))
    nothing = torch.zeros_like(rows)
    return torch.stack([torch.stack([_mask(r | c) for c in (nothing, columns)]) for r in (nothing, rows)])


def released_shift_masks(window: int, shift: int) -> Tensor:
    """The masks that the released denoiser was trained with, (2, 1, N, N).

    Only the last row of windows is masked, and it is split by token column although these windows wrap in the row
    direction: an inherited bug that the weights have learned to live with.
    """
    column = torch.arange(window).repeat(window)
    apart = _differs(column >= window - shift)
    return torch.stack([_mask(torch.zeros_like(apart)), _mask(apart)])[:, None]


def masked_bias(bias: Tensor, masks: Tensor | None) -> BiasGrid:
    """The bias (heads, N, N) alone, or with each of a (rows, columns, N, N) grid of masks added."""
    if masks is None:
        return [[bias]]
    return [[bias + mask for mask in row] for row in masks]


def _differs(group: Tensor) -> Tensor:
    return group[:, None] != group[None, :]


def _mask(apart: Tensor) -> Tensor:
    return torch.zeros(apart.shape).masked_fill_(apart, MASKED)


def window_attention(
    qkv: Tensor, bias: BiasGrid, *, heads: int, window: int, shift: int = 0, scale: float | None = None
) -> Tensor:
    """Multi-head attention inside each window.

    Args:
        qkv: (B, H, W, 3*C) with channels laid out as (q | k | v) x head x dimension; H and W multiples of ``window``.
        bias: added to the logits, see :data:`BiasGrid`.
        heads: number of heads.
        window: side of a window.
        shift: the windows start this many rows and columns further down and right; the image wraps around.
        scale: factor of q k; by default 1 / sqrt(C / heads).

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = qkv.shape
    dim = channels // (3 * heads)
    kinds = (len(bias), len(bias[0]))
    # A tracer's sizes are symbols, which no cache can look up.
    build = WindowOrder.build.__wrapped__ if torch.compiler.is_compiling() else WindowOrder.build
    order = build(batch, height, width, window, shift, kinds, qkv.device)
    tokens = reordered(qkv.reshape(-1, channels), order.places, order.back).view(-1, window**2, 3, heads, dim)
    attended, first = [], 0
    for count, matrix in zip(order.counts, (matrix for row in bias for matrix in row), strict=True):
        if count:
            q, k, v = tokens[first : first + count].permute(2, 0, 3, 1, 4)
            first += count
            # Torch's fused CPU kernel takes masks of four dimensions, not of three.
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=matrix[None].to(q.dtype), scale=scale)
            out = out.transpose(1, 2)
            if torch.compiler.is_compiling():
                # Torch's kernel gives strides for which this is no copy; what a tracer puts in its place does not.
                out = out.clone(memory_format=torch.contiguous_format)
            attended.append(out.reshape(-1, heads * dim))
    rows = torch.cat(attended) if len(attended) > 1 else attended[0]
    return reordered(rows, order.back, order.places).view(batch, height, width, heads * dim)


@dataclass(frozen=True)
class WindowOrder:
    """The tokens of a batch window by window, the windows kind by kind.

    Attributes:
        places: (B*H*W,) int64, where the tokens stand in the batch.
        back: its inverse.
        counts: windows of each kind, in the order of a :data:`BiasGrid`.
    """

    places: Tensor
    back: Tensor
    counts: tuple[int, ...]

    @staticmethod
    @lru_cache(maxsize=64)
    def build(
        batch: int,
        height: int,
        width: int,
        window: int,
        shift: int,
        kinds: tuple[int, int],
        device: torch.device,
    ) -> WindowOrder:
        """The order of (B, H, W) tokens; ``kinds`` are the rows and columns of the bias grid."""
        # Not an inference tensor, whoever asks first: training reads the same order.
        with torch.inference_mode(False):
            rows, columns = (torch.arange(side, device=device).roll(-shift) for side in (height, width))
            image = (rows[:, None] * width + columns).view(height // window, window, width // window, window)
            windows = image.permute(0, 2, 1, 3)
            images = torch.arange(batch, device=device)[:, None] * (height * width)
            parts, counts = [], []
            for some_rows in _bands(height // window, kinds[0]):
                for some_columns in _bands(width // window, kinds[1]):
                    parts.append((images + windows[some_rows, some_columns].reshape(1, -1)).flatten())
                    counts.append(batch * _length(some_rows) * _length(some_columns))
            places = torch.cat(parts)
            return WindowOrder(places, inverse(places), tuple(counts))


def _bands(count: int, kinds: int) -> list[slice]:
    """All windows along one side, or all but the last and the last one."""
    return [slice(0, count)] if kinds == 1 else [slice(0, count - 1), slice(count - 1, count)]


def _length(part: slice) -> int:
    return part.stop - part.start
