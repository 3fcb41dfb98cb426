"""A CUDA device that is not there: tensors without content, and a record of what goes between it and the host.

Torch computes shapes, types and devices of fake tensors, refuses what has no content to compute with (``.item()``, ``.numpy()``,
masks as indices), and needs no driver. Three things it does not do by itself are here: random draws on the device, moving a
module there, and telling which operators take tensors of both sides, which torch accepts for constants of no dimensions.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import upsr
from upsr.archs.window_attention import WindowOrder

PACKAGE = Path(upsr.__file__).parent
COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<genexpr>")
DRAWS = ("randn", "rand", "randint", "poisson")


class FakeGenerator:
    """In place of ``torch.Generator``, which needs a driver for CUDA."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def manual_seed(self, seed: int) -> FakeGenerator:
        return self


def _drawing(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A random function that takes a fake generator, and refuses one of another device as torch does."""

    def drawn(*args: Any, generator: FakeGenerator | None = None, **kwargs: Any) -> Tensor:
        if generator is None:
            return draw(*args, **kwargs)
        place = args[0].device if isinstance(args[0], Tensor) else torch.device(kwargs.get("device") or "cpu")
        if place.type != generator.device.type:
            raise RuntimeError(f"Expected a '{place.type}' generator, but found '{generator.device.type}'")
        return draw(*args, **kwargs)

    return drawn


def _copied(parameter: Tensor, memo: dict[int, Any]) -> Tensor:
    """What ``copy.deepcopy`` gets of a fake tensor. Its own way is to copy the mode too, and the process of torch 2.11 ended, now
    and then, with a segmentation fault, or a tensor took the place of another.
    """
    if id(parameter) not in memo:
        copied = parameter.detach().clone().requires_grad_(parameter.requires_grad)
        is_parameter = isinstance(parameter, nn.Parameter)
        memo[id(parameter)] = nn.Parameter(copied, parameter.requires_grad) if is_parameter else copied
    return memo[id(parameter)]


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors made inside are fake, on the CPU too."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=False):
        patch.setattr(torch, "Generator", FakeGenerator)
        for name in DRAWS:
            patch.setattr(torch, name, _drawing(getattr(torch, name)))
        patch.setattr(FakeTensor, "__deepcopy__", _copied, raising=False)
        WindowOrder.build.cache_clear()
        yield
    WindowOrder.build.cache_clear()


def on_cuda(module: nn.Module) -> Any:
    """The module with its parameters and buffers on the fake device, and nothing else of it.

    ``Module.to`` exchanges the content of parameters, which fake ones do not let go of.
    """
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(_like(value), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = _like(value)
    return module


def _like(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="cuda")


class Crossings(TorchDispatchMode):
    """Counts the operators that have tensors of both sides, by the function of the package that called them.

    Attributes:
        found: ``"diffusion/sampling.py sample: cuda -> cpu"``, or ``"...: cpu with cuda"`` for what is no copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = _devices((args, kwargs)), _devices(result)
        if len({*inputs, *outputs}) > 1:
            self.found[f"{_caller()}: {_kind(func, inputs, outputs)}"] += 1
        return result


def _devices(tree: Any) -> list[str]:
    return [leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _kind(func: Any, inputs: list[str], outputs: list[str]) -> str:
    if func.overloadpacket is torch.ops.aten.copy_:
        return f"{inputs[1]} -> {inputs[0]}"
    return f"{inputs[0]} -> {outputs[0]}" if len(set(inputs)) == 1 else "cpu with cuda"


def _caller() -> str:
    """The innermost function of the package on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        # Comprehensions have frames of their own until Python 3.12.
        if path.is_relative_to(PACKAGE) and frame.f_code.co_name not in COMPREHENSIONS:
            return f"{path.relative_to(PACKAGE).as_posix()} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside the package"


def stays_on_the_device(run: Callable[[], Any], allowed: dict[str, int]) -> None:
    """Run it; nothing goes between host and device but what is allowed, as often as it is, and all it gives is on the device."""
    with Crossings() as crossings:
        result = run()
    if crossings.found != allowed:
        raise AssertionError(f"between host and device went {dict(crossings.found)}, not {allowed}")
    if set(_devices(result)) != {"cuda"}:
        raise AssertionError(f"the result is on {_devices(result)}")
