"""Networks in other types than float32, for inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

WEIGHT_ONLY = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""Types that weights are kept in but nothing is computed in, and the largest number in use of each."""


def lower(network: nn.Module, dtype: torch.dtype, full_precision: Sequence[str]) -> None:
    """Convert convolutions and projections in place; norms stay float32.

    In bfloat16 and float16 they compute in that type. In the types of :data:`WEIGHT_ONLY` their weights take a quarter of the
    memory, with one float32 factor for each output channel, and are float32 again when they are used.

    Args:
        full_precision: parts, by a piece of their names, that are left as they are.
    """
    for name, module in list(network.named_modules()):
        if not isinstance(module, (nn.Conv2d, nn.Linear)) or any(part in name for part in full_precision):
            continue
        if dtype in WEIGHT_ONLY:
            module.requires_grad_(False)
            parametrize.register_parametrization(module, "weight", _Compact(dtype), unsafe=True)
        else:
            module.to(dtype)


class _Compact(nn.Module):
    """A weight as small numbers and a factor for each output channel."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, small: Tensor, factor: Tensor) -> Tensor:
        return small.to(factor.dtype) * factor

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        largest = weight.flatten(1).abs().amax(dim=1).view(-1, *[1] * (weight.dim() - 1))
        factor = largest.clamp_min(torch.finfo(weight.dtype).tiny) / WEIGHT_ONLY[self.dtype]
        levels = weight / factor
        return (levels if self.dtype.is_floating_point else levels.round()).to(self.dtype), factor
