"""Attention as the papers write it: windows cut out of a rolled map, products, bias, mask, softmax, products, windows put back.

The networks of ``upsr/archs`` have torch's fused attention and bring tokens into order by one gather; this is the form without
either, which does not change when they become faster.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from upsr.archs.atd import CategoryAttention, ShiftedWindowAttention
from upsr.archs.swin_unet import WindowAttention
from upsr.archs.window_attention import BiasGrid

Network = TypeVar("Network", bound=nn.Module)


class _Windows(WindowAttention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_window_attention(self.qkv(x), self.bias(), self))


class _WindowsOfG(ShiftedWindowAttention):
    def forward(self, qkv: Tensor, index: Tensor) -> Tensor:
        return self.proj(_window_attention(qkv, self.bias(index), self))


class _Categories(CategoryAttention):
    def attended(self, qkv: Tensor, order: Tensor) -> Tensor:
        batch, n, channels = qkv.shape
        groups = n // min(n, self.category_size)
        q, k, v = _heads(qkv.flatten(0, 1)[order].view(batch * groups, -1, channels), self.heads)
        out = _merged((q @ k.transpose(-2, -1) * self.scale()).softmax(-1) @ v)
        return torch.empty_like(out.flatten(0, 1)).index_copy_(0, order, out.flatten(0, 1)).view(batch, n, -1)


_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    WindowAttention: _Windows,
    ShiftedWindowAttention: _WindowsOfG,
    CategoryAttention: _Categories,
}


def textbook(network: Network) -> Network:
    """The plain network itself, its attention exchanged; categories must divide the number of tokens."""
    for module in network.modules():
        module.__class__ = _FORMS.get(type(module), type(module))
    return network


def _window_attention(qkv: Tensor, bias: BiasGrid, layer: Any) -> Tensor:
    batch, height, width, channels = qkv.shape
    side, shift = layer.window, layer.shift
    rows, columns = height // side, width // side
    windows = qkv.roll((-shift, -shift), (1, 2)).view(batch, rows, side, columns, side, channels)
    q, k, v = _heads(windows.transpose(2, 3).reshape(-1, side**2, channels), layer.heads)
    grid = torch.stack(
        [torch.stack([_kind(_kind(bias, i, rows), j, columns) for j in range(columns)]) for i in range(rows)]
    )
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    logits = logits.view(batch, rows, columns, *logits.shape[1:]) + grid
    out = _merged(logits.softmax(-1).view(-1, *logits.shape[3:]) @ v)
    out = out.view(batch, rows, columns, side, side, -1).transpose(2, 3).reshape(batch, height, width, -1)
    return out.roll((shift, shift), (1, 2))


def _kind(kinds: Any, place: int, count: int) -> Any:
    """The bias of a row or a column of windows: the last one may have its own."""
    return kinds[-1] if place == count - 1 else kinds[0]


def _heads(tokens: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(groups, n, 3C) -> queries, keys and values, each (groups, heads, n, dim)."""
    groups, n, channels = tokens.shape
    return tuple(tokens.view(groups, n, 3, heads, channels // (3 * heads)).permute(2, 0, 3, 1, 4))


def _merged(out: Tensor) -> Tensor:
    """(groups, heads, n, dim) -> (groups, n, C)."""
    return out.transpose(1, 2).flatten(2)
