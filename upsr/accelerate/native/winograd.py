"""3 x 3 convolutions by Winograd's algorithm, as :mod:`upsr.accelerate.winograd` has it of torch's operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.accelerate.native import library
from upsr.accelerate.winograd import TILE, transformed

_CHANNELS = 16
"""Channels of the map and of the result are multiples of it."""

_FEWEST_TILES = 16
"""Below, more time goes to reading the weights, four times as many, than multiplications are saved."""

_TILES, _ROWS = 32, 8
"""Tiles that a thread has at once: many enough that reading the weights for them costs little, few enough to stay in its cache. A
multiple of the rows that are multiplied together."""


def takes(x: Tensor, outputs: int) -> bool:
    """The kernel convolves (B, C, H, W) to so many channels, and does it fast."""
    tiles = -(-x.shape[2] // TILE) * -(-x.shape[3] // TILE)  # of one image, so that its batch does not matter
    return tiles >= _FEWEST_TILES and x.shape[1] % _CHANNELS == outputs % _CHANNELS == 0 and library.take(x)


def kernels_weight(weight: Tensor) -> Tensor:
    """(Cout, Cin, 3, 3) as the kernel reads it: panels of outputs x 36 points x Cin x outputs of a panel, float32."""
    found = library.kernels()
    assert not isinstance(found, str)
    panel = found.width // 16
    points = F.pad(transformed(weight.float()), (0, 0, 0, -len(weight) % panel))
    return points.unflatten(1, (-1, panel)).permute(1, 0, 3, 2).contiguous()


def doubling_weight(weight: Tensor) -> Tensor:
    """As :func:`kernels_weight`, of the convolution of a map that was doubled by nearest neighbours.

    In each direction a pixel of the doubled map has two different neighbours below the kernel: the pixel of the map that it
    belongs to and the one before it or after it. So each of the four pixels has a convolution of the map of its own.
    """
    one, nothing = torch.eye(3, dtype=weight.dtype, device=weight.device), weight.new_zeros(3)
    first = torch.stack([one[0], one[1] + one[2], nothing])
    second = torch.stack([nothing, one[0] + one[1], one[2]])
    phases = [
        torch.einsum("ak,bl,oikl->oiab", rows, columns, weight)
        for rows in (first, second)
        for columns in (first, second)
    ]
    return torch.cat([kernels_weight(phase) for phase in phases])


def conv(x: Tensor, weight: Tensor, bias: Tensor, *, scale: int = 1) -> Tensor:
    """A 3 x 3 convolution with padding 1.

    Args:
        x: (B, Cin, H, W) float32 or bfloat16, channels last; :func:`takes` says whether it suits.
        weight: from :func:`kernels_weight`, or with scale 2 from :func:`doubling_weight`.
        bias: (Cout,) float32.
        scale: 1, or 2 for the convolution of the doubled map.

    Returns:
        (B, Cout, scale * H, scale * W) in the type of ``x``, channels last.
    """
    (batch, channels, height, width), outputs = x.shape, len(bias)
    shape = (batch, outputs, scale * height, scale * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    tiles, threads = batch * -(-height // TILE) * -(-width // TILE), torch.get_num_threads()
    turns = -(-tiles // (_TILES * threads)) * threads
    at_once = -(-tiles // (turns * _ROWS)) * _ROWS
    library.call(
        "winograd", x.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr(),
        batch, height, width, channels, outputs, scale, at_once, like=x,
    )  # fmt: skip
    return out
