"""What the machine can do at best, and what a network asks of it: a roofline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from upsr.timing import timed


@dataclass(frozen=True)
class Traffic:
    """What a call needs at least.

    Attributes:
        flop: floating-point operations of products and convolutions.
        bytes: of the weights and the inputs, read once, and the result, written once.
    """

    flop: float
    bytes: float

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.flop + other.flop, self.bytes + other.bytes)

    def __mul__(self, count: int) -> Traffic:
        return Traffic(count * self.flop, count * self.bytes)


def traffic_of(network: torch.nn.Module, *inputs: Tensor) -> Traffic:
    """Count a call of a network."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        result = network(*inputs)
    tensors = (*network.parameters(), *inputs, result)
    return Traffic(flops.get_total_flops(), sum(x.numel() * x.element_size() for x in tensors))


@dataclass
class Limits:
    """The ceilings of a device, measured when they are first asked for.

    Attributes:
        small: of operands that take no time, for trying things out: no ceilings then.
    """

    device: torch.device
    small: bool = False

    def seconds(self, traffic: Traffic, dtype: torch.dtype) -> float:
        """The least time for some traffic: its arithmetic, or moving what has to be moved once, whichever is longer."""
        return max(traffic.flop / self._product(dtype), traffic.bytes / self._copy)

    def measured(self) -> dict[str, float]:
        """GFLOP/s of matrix products and GB/s of copies."""
        # A CPU without float16 arithmetic takes minutes for its product.
        dtypes = (torch.float32, torch.bfloat16, *([torch.float16] if self.device.type == "cuda" else []))
        products = {f"{str(dtype).removeprefix('torch.')} GFLOP/s": self._product(dtype) / 1e9 for dtype in dtypes}
        return {**products, "copy GB/s": self._copy / 1e9}

    def _product(self, dtype: torch.dtype) -> float:
        if dtype not in self._products:
            side = 128 if self.small else 8192 if self.device.type == "cuda" else 1536
            a, b = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
            self._products[dtype] = 2 * side**3 / self._fastest(lambda: a @ b)
        return self._products[dtype]

    @cached_property
    def _products(self) -> dict[torch.dtype, float]:
        return {}

    @cached_property
    def _copy(self) -> float:
        values = 1 << (20 if self.small else 28 if self.device.type == "cuda" else 26)
        source = torch.randn(values, device=self.device)
        target = torch.empty_like(source)
        return 2 * 4 * values / self._fastest(lambda: target.copy_(source))

    def _fastest(self, run: Callable[[], Any]) -> float:
        return min(timed(run, self.device, 10).seconds)
