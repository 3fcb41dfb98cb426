"""Denoisers compiled for the few sizes that they meet."""

from __future__ import annotations

import copy
import logging
import time
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from upsr.archs.contracts import DenoisingNetwork
from upsr.errors import UpsrError

_MOST_SIZES = 8
"""Each takes up to minutes to compile, and memory."""

_NO_LIMIT = 1 << 20

Network = TypeVar("Network", bound=DenoisingNetwork)


def compiled(network: Network, **options: Any) -> Network:
    """A view of a network that is compiled for the first sizes it meets, up to 8; it meets others as it is.

    Args:
        network: shares its weights with the view, and stays as it is.
        options: for ``torch.compile``: mode, one of :data:`upsr.choices.COMPILE_MODES`, or backend.

    Raises:
        UpsrError: at the first call: what compiling needs is not there.
    """
    view = copy.copy(network)
    usual, fast = network.forward, torch.compile(network.forward, dynamic=False, fullgraph=True, **options)
    sizes: set[tuple[torch.Size, torch.device]] = set()

    def forward(x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        key = (x.shape, x.device)
        if key not in sizes and len(sizes) == _MOST_SIZES:
            return usual(x, t, lq)
        start, first = time.perf_counter(), key not in sizes
        sizes.add(key)
        torch.compiler.cudagraph_mark_step_begin()
        try:
            # Torch counts the sizes of all networks of a class together.
            with torch._dynamo.config.patch(recompile_limit=_NO_LIMIT) if first else nullcontext():
                # A graph writes its result where it wrote the last one.
                result = fast(x, t, lq).clone()
        except torch._dynamo.exc.TorchDynamoException as error:
            what = " ".join(str(error).split("\n\n")[0].split())
            raise UpsrError(
                f"the denoiser could not be compiled ({what}); torch.compile needs a C++ compiler "
                "on CPUs and Triton on GPUs; go without it (--compile none)"
            ) from error
        if first:
            _say_how_long(x, time.perf_counter() - start)
        return result

    view.forward = forward
    # The condition goes into the graph with the rest.
    view.prepared = partial(DenoisingNetwork.prepared, view)  # type: ignore[method-assign]
    return view


def _say_how_long(x: Tensor, seconds: float) -> None:
    batch, _, height, width = x.shape
    logging.getLogger("upsr").info("compiled for %d x %d x %d in %.1f s", batch, height, width, seconds)
