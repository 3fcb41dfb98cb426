"""Checkpoints written while training goes on: a copy of the state in host memory, and the thread that makes and writes it."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from upsr.devices import copying_stream, current_stream, has_streams, within
from upsr.engine.checkpoint import Checkpoint, CheckpointStore, PlayerState
from upsr.errors import UpsrError

logger = logging.getLogger(__name__)


class Saver:
    """Writes checkpoints, one at a time, in a thread of its own.

    The thread first copies the players' tensors into host memory, which stays allocated for the next checkpoint. Meanwhile
    the next iteration may compute gradients, but no tensor of the state may change: call :meth:`copied` before. Leaving the
    context waits for the thread.

    A thread suffices: writing 1.9 GB by torch.save holds the interpreter's lock for at most some 30 ms at a time.

    Args:
        device: that the players are on; copies are in pinned memory where the device has streams.
        beside: make a copy and write it while training goes on; otherwise :meth:`begin` returns when all is written.
    """

    def __init__(self, store: CheckpointStore, device: torch.device, *, beside: bool = True) -> None:
        self.store, self.device = store, device
        self._threads = ThreadPoolExecutor(1, "checkpoint") if beside else None
        self._saving: Future[str | None] = _done(None)
        self._copied = threading.Event()
        self._copied.set()
        self._memory: dict[Hashable, Tensor] = {}

    def begin(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, when the one before is finished.

        Args:
            checkpoint: its players' tensors must not change before :meth:`copied` returns, and the rest not at all.
        """
        self.finish()
        if self._threads is None:
            self._saving = _done(self._write(checkpoint))
            return
        self._copied.clear()
        ready = current_stream(self.device).record_event() if has_streams(self.device) else None
        self._saving = self._threads.submit(self._copy_and_write, checkpoint, ready)

    def copied(self) -> None:
        """Wait until the state that is being saved may change."""
        self._copied.wait()

    def finish(self) -> str | None:
        """Wait for the checkpoint that is being written; returns why it could not be, once, or ``None``."""
        saving, self._saving = self._saving, _done(None)
        return saving.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        self._memory.clear()
        if error is None:
            self.finish()
        elif (second := self._saving.exception()) is not None:
            logger.error("the checkpoint that was being written is lost: %s", second)

    def _copy_and_write(self, checkpoint: Checkpoint, ready: Any) -> str | None:
        try:
            copy = self._copy(checkpoint, ready)
        except UpsrError as error:
            return _failed(checkpoint, error)
        finally:
            self._copied.set()
        return self._write(copy)

    def _copy(self, checkpoint: Checkpoint, ready: Any) -> Checkpoint:
        stream = copying_stream(self.device)
        if stream is not None:
            stream.wait_event(ready)
        with within(stream, self.device):
            players = self._copies(checkpoint.players, {})
        if stream is not None:
            stream.synchronize()
        return dataclasses.replace(checkpoint, players=players)

    def _copies(self, value: Any, seen: dict[Hashable, Tensor], *place: Hashable) -> Any:
        """A part of a checkpoint with its tensors in host memory.

        Args:
            seen: copies so far, by the memory they are of: tensors that share memory do so in the copy and in the file.
            place: keys that lead to the part.
        """
        if isinstance(value, PlayerState):
            return PlayerState(**self._copies(vars(value), seen, *place))
        if isinstance(value, Mapping):
            return {key: self._copies(item, seen, *place, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copies(item, seen, *place, index) for index, item in enumerate(value)]
        if not isinstance(value, Tensor):
            return value
        source = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if source not in seen:
            seen[source] = self._memory_for(value, place).copy_(value, non_blocking=has_streams(value.device))
        return seen[source]

    def _memory_for(self, tensor: Tensor, place: Hashable) -> Tensor:
        memory = self._memory.get(place)
        if memory is None or memory.shape != tensor.shape or memory.dtype != tensor.dtype:
            try:
                memory = torch.empty_like(tensor, device="cpu", pin_memory=has_streams(tensor.device))
            except RuntimeError as error:
                raise UpsrError(f"no memory for a copy of the state ({error}); set logger.save_beside: false") from None
            self._memory[place] = memory
        return memory

    def _write(self, checkpoint: Checkpoint) -> str | None:
        try:
            logger.info("saved %s", self.store.save(checkpoint))
        except UpsrError as error:
            return _failed(checkpoint, error)
        return None


def _failed(checkpoint: Checkpoint, problem: UpsrError) -> str:
    logger.error("iteration %d was not saved: %s; earlier checkpoints are untouched", checkpoint.iteration, problem)
    return str(problem)


def _done(result: str | None) -> Future[str | None]:
    future: Future[str | None] = Future()
    future.set_result(result)
    return future
