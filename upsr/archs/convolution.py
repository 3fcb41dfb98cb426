"""3 x 3 convolutions with fewer multiplications than they seem to need.

Both forms give what ``nn.Conv2d`` gives up to rounding, and are for inference: with gradients the plain form runs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TILE = 4
_SPAN = _TILE + 2

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where the polynomials of F(4, 3) are evaluated, infinity beside them. Errors are a quarter of those with 0, +-1, +-2."""

_FEWEST_TILES = 64
"""Below, transforming the weights costs more than the multiplications that are saved."""

_BAND_VALUES = 1 << 18
"""Values that are transformed at once, so that they are still in the cache when they are multiplied; more where the weights are
many more, which are read again for each band."""

_FEWEST_PIXELS = 256
"""Below, making the weights of a doubling convolution costs more than the multiplications that are saved."""


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution with padding 1; on a CPU in float32 by Winograd's algorithm where that is faster."""

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H, W)."""
        weight = self.weight
        return winograd(x, weight, self.bias) if _pays(x, weight) else self._conv_forward(x, weight, self.bias)


class DoublingConv(nn.Conv2d):
    """A 3 x 3 convolution with padding 1 of the image doubled by nearest neighbours.

    Of the nine pixels under the kernel four are different, so it is a transposed convolution with 4 x 4 weights, which
    multiplies less than half as often and never holds the doubled image.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, 2H, 2W)."""
        if torch.is_grad_enabled() or x.shape[-2] * x.shape[-1] < _FEWEST_PIXELS:
            return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))
        return F.conv_transpose2d(x, _of_doubled(self.weight).to(x.dtype), self.bias.to(x.dtype), stride=2, padding=1)


def _of_doubled(weight: Tensor) -> Tensor:
    """(Cout, Cin, 3, 3) -> (Cin, Cout, 4, 4), whose stride-2 transposed convolution is the one of the doubled image."""
    for dim in (2, 3):
        first, second, third = weight.unbind(dim)
        weight = torch.stack([third, second + third, first + second, first], dim)
    return weight.transpose(0, 1)


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Whether Winograd's algorithm is faster."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.is_contiguous(memory_format=torch.channels_last)
        and min(weight.shape[:2]) >= 64
        and x.shape[2] * x.shape[3] >= _FEWEST_TILES * _TILE**2  # of one image, so that its batch does not matter
    )


def winograd(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3 x 3 convolution with padding 1 as F(4 x 4, 3 x 3) of Lavin and Gray (2016): a quarter of the multiplications.

    Args:
        x: (B, Cin, H, W) float32, channels last.
        weight: (Cout, Cin, 3, 3).
        bias: (Cout,).

    Returns:
        (B, Cout, H, W), channels last.
    """
    batch, channels, height, width = x.shape
    data, kernel, result = _transforms(x.device)
    of_weight = (kernel @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(_SPAN**2, channels, -1)
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    out = x.new_empty(batch, rows, _TILE, columns, _TILE, len(weight))
    values = max(_BAND_VALUES, of_weight.numel() // 3)
    band = max(values // (_SPAN**2 * columns * max(channels, len(weight))), 1)
    for image, target in zip(x.permute(0, 2, 3, 1), out, strict=True):
        for top in range(0, rows, band):
            count = min(band, rows - top)
            first, last = top * _TILE - 1, (top + count) * _TILE + 1
            above, below = max(-first, 0), max(last - height, 0)
            part = F.pad(image[first + above : last - below], (0, 0, 1, columns * _TILE - width + 1, above, below))
            down, right, _ = part.stride()
            windows = part.as_strided(
                (_SPAN, _SPAN, count, columns, channels), (down, right, _TILE * down, _TILE * right, 1)
            )
            of_data = (data @ windows.reshape(_SPAN**2, -1)).view(_SPAN**2, -1, channels)
            pixels = result @ torch.bmm(of_data, of_weight).view(_SPAN**2, -1)
            pixels = pixels.view(_TILE, _TILE, count, columns, -1).permute(2, 0, 3, 1, 4)
            torch.add(pixels, bias, out=target[top : top + count])
    return out.view(batch, rows * _TILE, columns * _TILE, -1)[:, :height, :width].permute(0, 3, 1, 2)


@lru_cache(maxsize=2)
def _transforms(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What windows of the image, weights and products are multiplied by, each for both directions at once.

    A product of polynomials of degree 3 and 2 is known from its values at five points and its highest coefficient; the
    convolution is the transposed of that product.
    """
    points = torch.tensor(_POINTS, dtype=torch.float64)
    count = len(points)
    apart = points[:, None] - points + torch.eye(count, dtype=torch.float64)
    kernel = torch.zeros(_SPAN, 3, dtype=torch.float64)
    kernel[:count] = points[:, None] ** torch.arange(3) / apart.prod(dim=1, keepdim=True)
    kernel[count, 2] = 1
    result = torch.zeros(_TILE, _SPAN, dtype=torch.float64)
    result[:, :count] = points ** torch.arange(_TILE)[:, None]
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
