"""Processes that share the work of one restoration."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Peers(Protocol):
    """Processes that work together; :class:`upsr.engine.distributed.Runtime` is one."""

    @property
    def rank(self) -> int:
        """Place of this process among them."""
        ...

    @property
    def world_size(self) -> int:
        """How many they are."""
        ...

    @property
    def is_main(self) -> bool:
        """Whether this process reads and writes files."""
        ...

    def from_main(self, item: Any) -> Any:
        """The main process's item, on every process."""
        ...

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """Tensors of one shape from all processes, in rank order, on every process."""
        ...
