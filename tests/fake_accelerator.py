"""An accelerator that is not there, under a name that nothing in the package knows: it computes on the CPU, and has no float64.

Torch's own registration of another maker's device, in Python: ``torch.accelerator`` finds it, ``tensor.to("fastcard")`` moves
there, and operators refuse tensors of both sides as those of a card do. It cannot be taken back: for a process of its own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fastcard"


class CardTensor(Tensor):
    """A tensor of the card; its content is on the CPU, in ``content``."""

    content: Tensor

    @staticmethod
    def __new__(cls, content: Tensor) -> CardTensor:
        if content.dtype == torch.float64:
            raise TypeError(f"{NAME} has no float64")
        own = Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=torch.device(NAME, 0),
        )
        own.content = content
        return own

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = [leaf.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to) and places and places[0] != NAME:
            return func(args[0].content, *args[1:], **kwargs)
        if func.overloadpacket is torch.ops.aten.copy_:
            target, source = (x.content if isinstance(x, CardTensor) else x for x in args[:2])
            target.copy_(source)
            return args[0]
        on_host = [x for x in tensors if not isinstance(x, CardTensor) and x.dim()]
        if on_host:
            raise RuntimeError(f"{func}: a tensor of the CPU among those of {NAME}")
        result = func(*tree_map(_content, args), **tree_map(_content, kwargs))
        known = {id(x.content): x for x in tensors if isinstance(x, CardTensor)}

        def on_card(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return known[id(x)] if id(x) in known else CardTensor(x)

        return tree_map(on_card, result)


def _content(value: Any) -> Any:
    """What an argument is on the CPU."""
    if isinstance(value, CardTensor):
        return value.content
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


class Module:
    """What ``torch.fastcard`` is."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_device_name(self, device: Any) -> str:
        return "Fast Card 1"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16]

    def get_device_properties(self, device: Any) -> Any:
        return SimpleNamespace(has_fp64=False)


def register() -> None:
    """Make the card known to torch. Comes before the import of the package."""
    # A view made in inference mode of a wrapper from outside it has no version counter.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()  # type: ignore[misc,assignment]
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
              memory_format: Any = None) -> Tensor:  # fmt: skip
        return CardTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, layout: Any = None, device: Any = None,
                      pin_memory: Any = None) -> Tensor:  # fmt: skip
        return CardTensor(torch.empty_strided(size, stride, dtype=dtype))

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    register.library = library  # type: ignore[attr-defined]  (it is forgotten with its object)
