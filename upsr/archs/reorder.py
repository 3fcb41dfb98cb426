"""Rows of a matrix in another order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reordered(rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """``rows[order]``.

    Args:
        rows: (n, C).
        order: (n,) int64, a permutation.
        back: its :func:`inverse`.
    """
    return _Reordered.apply(rows, order, back) if torch.is_grad_enabled() else rows.index_select(0, order)


def inverse(order: Tensor) -> Tensor:
    """The permutation that undoes ``order``."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))


class _Reordered(torch.autograd.Function):
    """The backward of a permutation is the inverse permutation, a gather as well; torch's generic backward would scatter-add."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None
