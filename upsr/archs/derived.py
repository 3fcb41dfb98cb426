"""What is computed from a parameter and used again at every call, as long as the parameter stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Derived(nn.Module, Generic[T]):
    """Keeps what comes from a parameter for as long as the parameter stays the same.

    Where gradients are recorded it is built anew each time, so that they reach the parameter. Not every change of a
    parameter raises its version (fused optimisers and ``.data`` do not), so it is also dropped wherever weights usually
    change: after a training step, when the mode is set, when weights are loaded, converted or moved. A layer that goes
    another way while gradients are recorded calls :meth:`drop` on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[tuple[object, ...], T] | None = None

    def forward(self, parameter: Tensor, build: Callable[[], T]) -> T:
        """``build()``, or its result from an earlier call with the same parameter."""
        if torch.is_grad_enabled():
            self.drop()
            return build()
        if torch.compiler.is_compiling():  # a graph can ask no tensor for its version
            return build()
        version = 0 if parameter.is_inference() else parameter._version
        key = (parameter.data_ptr(), version, parameter.dtype, parameter.device)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, build()
        return self._kept[1]

    def drop(self) -> None:
        """Forget what is kept."""
        self._kept = None

    def train(self, mode: bool = True) -> Derived[T]:
        """Sets the mode and drops what is kept."""
        self.drop()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Derived[T]:
        self.drop()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.drop()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}
