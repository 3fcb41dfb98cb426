"""Batches that are on the device before they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from upsr.devices import copying_stream, current_stream, within


class DevicePrefetcher:
    """Copies the batch after the current one to the device while that is busy.

    The copy runs on a stream of its own, from pinned memory, so neither the host nor the computation waits for it.

    Args:
        batches: dictionaries with tensors among their values; pinned where the device has streams.

    Attributes:
        waited: seconds that the caller has spent waiting for data so far.
    """

    def __init__(self, batches: Iterator[Mapping[str, Any]], device: torch.device) -> None:
        self.waited = 0.0
        self._batches = batches
        self._device = device
        self._stream = copying_stream(device)
        self._next: dict[str, Any] | None = None

    def prefetch(self) -> None:
        """Fetch the next batch, if there is one and it is not here yet. Call it when the device has work to do."""
        if self._next is not None:
            return
        started = time.perf_counter()
        batch = next(self._batches, None)
        self.waited += time.perf_counter() - started
        if batch is None:
            return
        with within(self._stream, self._device):
            self._next = {
                key: value.to(self._device, non_blocking=True) if isinstance(value, Tensor) else value
                for key, value in batch.items()
            }

    def take(self) -> dict[str, Any]:
        """The next batch.

        Raises:
            StopIteration: there is none.
        """
        self.prefetch()
        batch, self._next = self._next, None
        if batch is None:
            raise StopIteration
        if self._stream is not None:
            current = current_stream(self._device)
            current.wait_stream(self._stream)
            for value in batch.values():
                if isinstance(value, Tensor):
                    value.record_stream(current)
        return batch
