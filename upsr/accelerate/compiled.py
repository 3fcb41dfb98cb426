"""Denoisers compiled for the few sizes that they meet."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from upsr.archs.contracts import DenoisingNetwork
from upsr.errors import UpsrError

_MOST_SIZES = 8
"""Each takes up to minutes to compile, and memory."""

_NO_LIMIT = 1 << 20


class OtherForm(DenoisingNetwork):
    """A network that something else than torch's eager mode computes, and that states what the network states.

    Args:
        network: stays as it is.
    """

    def __init__(self, network: DenoisingNetwork) -> None:
        super().__init__()
        self.network = network
        self.scale, self.out_channels, self.cond_channels = network.scale, network.out_channels, network.cond_channels
        self.size_multiple, self.values_per_pixel = network.size_multiple, network.values_per_pixel

    @staticmethod
    def note(x: Tensor, start: float) -> None:
        """Tell that it was compiled for the size of ``x``, which began at ``time.perf_counter()`` of ``start``."""
        batch, _, height, width = x.shape
        seconds = time.perf_counter() - start
        logging.getLogger("upsr").info("compiled for %d x %d x %d in %.1f s", batch, height, width, seconds)


class Compiled(OtherForm):
    """A network that is compiled for the first sizes it meets, up to 8; it meets others as it is.

    Args:
        network: stays as it is.
        options: for ``torch.compile``: mode, one of :data:`upsr.choices.COMPILE_MODES`, or backend.

    Raises:
        UpsrError: at the first call: what compiling needs is not there.
    """

    def __init__(self, network: DenoisingNetwork, **options: Any) -> None:
        super().__init__(network)
        self._fast = torch.compile(network.forward, dynamic=False, fullgraph=True, **options)
        self._sizes: set[tuple[torch.Size, torch.device]] = set()

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        """See :class:`DenoisingNetwork`."""
        key = (x.shape, x.device)
        first = key not in self._sizes
        if first and len(self._sizes) == _MOST_SIZES:
            return self.network(x, t, lq)
        start = time.perf_counter()
        self._sizes.add(key)
        torch.compiler.cudagraph_mark_step_begin()
        try:
            # Torch counts the sizes of all networks of a class together.
            with torch._dynamo.config.patch(recompile_limit=_NO_LIMIT) if first else nullcontext():
                # A graph writes its result where it wrote the last one.
                result: Tensor = self._fast(x, t, lq).clone()
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise UpsrError(
                f"the denoiser could not be compiled ({reason}); torch.compile needs a C++ compiler "
                "on CPUs and Triton on GPUs; go without it (--compile none)"
            ) from error
        if first:
            self.note(x, start)
        return result
