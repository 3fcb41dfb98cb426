"""3 x 3 convolutions with a quarter of the multiplications: F(4 x 4, 3 x 3) of Lavin and Gray (2016), on CPUs."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.accelerate import packed

TILE = 4
_SPAN = TILE + 2

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where the polynomials of F(4, 3) are evaluated, infinity beside them. Errors are a quarter of those with 0, +-1, +-2."""

_BAND_VALUES = 1 << 18
"""Values that are transformed at once, so that they are still in the cache when they are multiplied; more where the weights are
many more, which are read again for each band."""


def winograd_weight(weight: Tensor, tiles: int) -> Tensor:
    """(Cout, Cin, 3, 3) transformed for :func:`winograd` and packed for about so many tiles at once."""
    return packed.packed_stack(transformed(weight), tiles)


def transformed(weight: Tensor) -> Tensor:
    """(Cout, Cin, 3, 3) -> (36, Cout, Cin): the weights at each pair of points."""
    _, kernel, _ = _transforms(weight.device)
    outputs, channels = weight.shape[:2]
    return (kernel @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(_SPAN**2, outputs, channels)


def winograd(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3 x 3 convolution with padding 1.

    Args:
        x: (B, Cin, H, W) float32, channels last.
        weight: from :func:`winograd_weight`.
        bias: (Cout,).

    Returns:
        (B, Cout, H, W), channels last.
    """
    batch, channels, height, width = x.shape
    outputs = len(bias)
    data, _, result = _transforms(x.device)
    rows, columns = -(-height // TILE), -(-width // TILE)
    out = x.new_empty(batch, rows, TILE, columns, TILE, outputs)
    band = max(band_of(channels, outputs) // columns, 1)
    for image, target in zip(x.permute(0, 2, 3, 1), out, strict=True):
        for top in range(0, rows, band):
            count = min(band, rows - top)
            first, last = top * TILE - 1, (top + count) * TILE + 1
            above, below = max(-first, 0), max(last - height, 0)
            part = F.pad(image[first + above : last - below], (0, 0, 1, columns * TILE - width + 1, above, below))
            down, right, _ = part.stride()
            windows = part.as_strided(
                (count, columns, _SPAN, _SPAN, channels), (TILE * down, TILE * right, down, right, 1)
            )
            of_data = torch.matmul(data, windows.reshape(-1, _SPAN**2, channels))
            pixels = torch.matmul(result, packed.stacked(of_data, weight))
            pixels = pixels.view(count, columns, TILE, TILE, -1).transpose(1, 2)
            torch.add(pixels, bias, out=target[top : top + count])
    return out.view(batch, rows * TILE, columns * TILE, -1)[:, :height, :width].permute(0, 3, 1, 2)


def band_of(channels: int, outputs: int) -> int:
    """Tiles that are transformed and multiplied together."""
    values = max(_BAND_VALUES, _SPAN**2 * channels * outputs // 3)
    return max(values // (_SPAN**2 * max(channels, outputs)), 1)


@lru_cache(maxsize=2)
def _transforms(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices for windows of the image, weights and products, each for both directions at once.

    A product of polynomials of degree 3 and 2 is known from its values at five points and its highest coefficient; the
    convolution is the transposed of that product.
    """
    points = torch.tensor(_POINTS, dtype=torch.float64)
    count = len(points)
    apart = points[:, None] - points + torch.eye(count, dtype=torch.float64)
    kernel = torch.zeros(_SPAN, 3, dtype=torch.float64)
    kernel[:count] = points[:, None] ** torch.arange(3) / apart.prod(dim=1, keepdim=True)
    kernel[count, 2] = 1
    result = torch.zeros(TILE, _SPAN, dtype=torch.float64)
    result[:, :count] = points ** torch.arange(TILE)[:, None]
    result[-1, count] = 1
    data = torch.zeros(_SPAN, _SPAN, dtype=torch.float64)
    for i in range(count):
        data[i, :count] = _coefficients(torch.cat([points[:i], points[i + 1 :]]))
    data[count] = _coefficients(points)
    with torch.inference_mode(False):
        first, second, third = (torch.kron(m, m).float().to(device) for m in (data, kernel, result))
    return first, second, third


def _coefficients(roots: Tensor) -> Tensor:
    """Of the polynomial with these roots and the highest coefficient 1, the constant first."""
    found = roots.new_ones(1)
    for root in roots:
        found = F.pad(found, (1, 0)) - root * F.pad(found, (0, 1))
    return found
