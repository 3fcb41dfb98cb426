"""Modules that change what a network of diffusers computes, by forward hooks, and leave its code and names as they are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import nn
from typing_extensions import Self


class Hooked(nn.Module):
    """A network under hooks that call the layers of this module; a copy has hooks of its own.

    Subclasses call :meth:`hook` at the end of their constructor, which takes :meth:`parts`.

    Attributes:
        NETWORK: name of the hooked one among the parts.
    """

    NETWORK: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._handles: list[Any] = []

    def parts(self) -> Mapping[str, nn.Module | None]:
        """Arguments of the constructor by name."""
        raise NotImplementedError

    def hooks(self) -> Iterator[Any]:
        """Register the hooks, and give their handles."""
        raise NotImplementedError

    def hook(self) -> None:
        """Register the hooks."""
        self._handles = list(self.hooks())

    def replaced(self, **parts: nn.Module | None) -> Self:
        """The same with other parts. The hooked network is copied, and the copy shares its parameters."""
        own: Any = dict(self.parts())
        if self.NETWORK not in parts:
            network = own[self.NETWORK]
            shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
            with self._unhooked():
                own[self.NETWORK] = copy.deepcopy(network, shared)
        return type(self)(**{**own, **parts}).train(self.training)

    @contextlib.contextmanager
    def _unhooked(self) -> Iterator[None]:
        for handle in self._handles:
            handle.remove()
        try:
            yield
        finally:
            self.hook()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        with self._unhooked():
            copies: Any = {name: copy.deepcopy(part, memo) for name, part in self.parts().items()}
            return type(self)(**copies).train(self.training)
