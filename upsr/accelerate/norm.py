"""Group norm of maps with channels last, exact and independent of the number of threads."""

from __future__ import annotations

import torch
from torch import Tensor

from upsr.accelerate.native import norm as native
from upsr.accelerate.twin import Twin
from upsr.archs.layers import GroupNorm32

_GUESSED = 256
"""Pixels, about, that the mean of a map is guessed from."""


class ExactGroupNorm(Twin, GroupNorm32):
    """Sums whose order does not depend on the number of threads; the order of torch's does."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """See :class:`GroupNorm32`; maps with channels last on a CPU go the other way."""
        if x.device.type != "cpu" or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x, scale, shift)
        if native.takes(x):
            weight, bias = self.keep("float32", lambda: (self.weight.float(), self.bias.float()))
            both = (None, None) if scale is None or shift is None else (scale.float(), shift.float())
            return native.group_norm(x, self.num_groups, weight, bias, self.eps, *both)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        # E[x^2] - E[x]^2 of a map far from 0 is the difference of two large numbers, so the mean of some of the pixels is
        # subtracted first. An odd step meets all columns.
        some = pixels[:, :: pixels.shape[1] // _GUESSED | 1].float()
        guess = self._mean_of_groups(some.sum(1), some.shape[1]).float()
        values = pixels - guess[:, None]
        mean = self._mean_of_groups(values.sum(1), values.shape[1])
        square = self._mean_of_groups(values.square().sum(1), values.shape[1])
        inverse = (square - mean.square()).clamp_min_(0).add_(self.eps).rsqrt()
        factor = self.weight.double() * inverse
        offset = self.bias.double() - factor * mean
        if scale is not None and shift is not None:
            factor, offset = factor * scale, offset * scale + shift
        normed = torch.addcmul(offset[:, None].float(), values, factor[:, None].float(), out=values)
        return normed.to(x.dtype).view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)

    def _mean_of_groups(self, sums: Tensor, pixels: int) -> Tensor:
        """(B, C) sums over so many pixels -> (B, C) float64: the mean of each channel's group."""
        groups = sums.unflatten(1, (self.num_groups, -1))
        mean = groups.sum(2, dtype=torch.float64) / (pixels * groups.shape[2])
        return mean.repeat_interleave(groups.shape[2], dim=1)
