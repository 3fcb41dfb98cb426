"""The base of modules that take the place of plain ones in a frozen network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)


def shallow_copy(module: Module) -> Module:
    """The module with the same parameters and parts, in dictionaries of its own, as its hooks are: either may exchange some."""
    view = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            vars(view)[name] = copy.copy(value)
    return view


class Twin(nn.Module):
    """A module with the parameters of a plain one and another forward.

    Parameters do not change, so tensors that are made of them are kept from the first call on.

    Attributes:
        packs: the weight can be put into oneDNN's layout.
    """

    packs: bool = False
    _kept: Mapping[str, Any] = MappingProxyType({})

    def takes_packed(self, x: Tensor) -> bool:
        """A packed weight can be applied to ``x``, here and now."""
        return (
            self.packs
            and x.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
        )

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """``make()``, or its result from an earlier call under this name."""
        if name not in self._kept:
            self._kept = {**self._kept, name: make()}
        kept: T = self._kept[name]
        return kept

    def _apply(self, *args: Any, **kwargs: Any) -> Twin:
        self._kept = {}  # the module moves to another device or type
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # packed weights cannot be copied
