"""A counter-based generator: any of its numbers is a function of a key and of the number's place, on every device the same.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A counter and a key of 128 and 64 bits give
four numbers of 32 bits. Here the counter is the place in a field of images, so that any part of a field is drawn by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from upsr.devices import float64_device

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_WORD = 0xFFFFFFFF
_AT_ONCE = 1 << 16
"""Counters that are worked on together on a CPU: a counter takes some 200 bytes on the way, which should stay in its cache. With
sixteen times as many a field takes three times as long, with an eighth of them too."""

_AT_ONCE_ELSEWHERE = 1 << 20
"""On other devices, which want much work in a call."""


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random numbers of 32 bits for each counter and key.

    Args:
        counter: the four words of 32 bits, int64 tensors that broadcast.
        key: the two words of 32 bits, likewise.

    Returns:
        Four int64 tensors with values in [0, 2**32).
    """
    a, b, c, d = counter
    k_0, k_1 = key
    for _ in range(_ROUNDS):
        # 64 bits of a product, whose highest is the sign: int64 wraps around, on CPUs as on GPUs, and the shift is masked.
        product_0, product_1 = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, c = (product_1 >> 32 & _WORD) ^ (b ^ k_0), (product_0 >> 32 & _WORD) ^ (d ^ k_1)
        b, d = product_1 & _WORD, product_0 & _WORD
        k_0, k_1 = (k_0 + _WEYL[0]) & _WORD, (k_1 + _WEYL[1]) & _WORD
    return a, b, c, d


def normal_field(
    keys: Sequence[int], channels: int, rows: slice, columns: slice, device: torch.device
) -> Tensor:  # fmt: skip
    """A window of fields of standard normal numbers.

    The numbers of a channel and a row come from counters (column // 4, row, channel, 0), four to a counter, by Box and Muller's
    formula in float64, which is rounded to float32; so devices agree but where that rounding is a tie. A device without float64
    is given what the CPU draws. The largest number there can be is 6.66.

    Args:
        keys: of 64 bits, one for each image.
        rows, columns: of the window; ``start`` and ``stop`` are set, at least 0.

    Returns:
        (len(keys), channels, rows, columns) float32 on ``device``.
    """
    place = float64_device(device)
    halves = [[key & _WORD for key in keys], [key >> 32 & _WORD for key in keys]]
    words = torch.tensor(halves, dtype=torch.int64, device=place)
    size = len(keys), channels, rows.stop - rows.start, columns.stop - columns.start
    field = torch.empty(size, dtype=torch.float32, device=place)
    first, last = columns.start // 4, -(-columns.stop // 4)
    across = torch.arange(first, last, device=place)
    plane = torch.arange(channels, device=place)[:, None, None]
    at_once = _AT_ONCE if place.type == "cpu" else _AT_ONCE_ELSEWHERE
    height = max(1, at_once // max(1, len(keys) * channels * len(across)))
    for top in range(rows.start, rows.stop, height):
        down = torch.arange(top, min(top + height, rows.stop), device=place)[:, None]
        counter = across, down, plane, torch.zeros((), dtype=torch.int64, device=place)
        key = [word[:, None, None, None] for word in words.unbind()]
        numbers = _normal(*philox(counter, key)).flatten(-2)
        inside = numbers[..., columns.start - 4 * first : columns.stop - 4 * first]
        field[..., top - rows.start : top - rows.start + len(down), :] = inside
    return field.to(device)


def _normal(*words: Tensor) -> Tensor:
    """Four standard normal numbers along a new last dimension, float32, of four numbers of 32 bits."""
    pairs = []
    for radius, angle in (words[:2], words[2:]):
        length = (-2 * ((radius.double() + 1) * 2**-32).log()).sqrt()
        turn = angle.double() * (2 * math.pi * 2**-32)
        pairs += [length * turn.cos(), length * turn.sin()]
    return torch.stack(pairs, dim=-1).float()
