"""The noise of a restoration: fields over whole images, each image's from its own seed."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from upsr.accelerate.native import normal as native
from upsr.choices import NoiseSource
from upsr.devices import float64_device
from upsr.diffusion.sampling import Noise
from upsr.philox import normal_field
from upsr.rng import derive_seed, torch_generator
from upsr.tiling.scratch import Scratch

Shape = tuple[int, int, int]
"""(channels, height, width) of one image's field, see :meth:`Facts.noise_shape`."""


class SequentialNoise:
    """Fields of torch's generator for CPUs (Mersenne Twister), whose numbers come one after another.

    Drawn on the CPU, a plane of a cell's channel at a time, so that it is the same on every device, whatever batch an image is
    in, and a large field in a file costs no memory.

    Args:
        seed: seed of the run.
        names: identity of each image.
        shape: see :data:`Shape`.
        scratch: makes the fields.
    """

    def __init__(self, seed: int, names: Sequence[str], shape: Shape, scratch: Scratch) -> None:
        self.seed = seed
        self.names = names
        self.shape = shape
        self.scratch = scratch

    def __call__(self, k: int) -> Tensor:
        """The k-th standard normal tensor, (B, channels, height, width)."""
        field = self.scratch.zeros(len(self.names), *self.shape)
        for image, name in zip(field, self.names, strict=True):
            generator = torch_generator(self.seed, "restore", name, k)
            drawn = image if image.device.type == "cpu" else torch.empty(self.shape)
            for plane in drawn:
                torch.randn(plane.shape, generator=generator, out=plane)
            if drawn is not image:
                image.copy_(drawn)
        return field


class CounterNoise:
    """Fields of a counter-based generator, of which each window is drawn where and when it is needed.

    Args: as those of :class:`SequentialNoise`.
    """

    def __init__(self, seed: int, names: Sequence[str], shape: Shape, scratch: Scratch) -> None:
        self.seed = seed
        self.names = names
        self.shape = shape
        self.device = scratch.device

    def __call__(self, k: int) -> CounterField:
        """The k-th field."""
        return CounterField(
            [derive_seed(self.seed, "restore", name, k) for name in self.names], self.shape, self.device
        )


class CounterField(Tensor):
    """A field of standard normal numbers, (B, C, H, W) float32, none of which is there.

    Windows are drawn when they are cut out. For other operations all of it is, each time anew, so what they give are copies,
    views too. It has no memory to share, and cannot be changed.

    Args:
        keys: of the images, see :func:`upsr.philox.normal_field`.
        shape: see :data:`Shape`.
    """

    keys: Sequence[int]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are plain tensors

    @staticmethod
    def __new__(cls, keys: Sequence[int], shape: Shape, device: torch.device) -> CounterField:
        field = Tensor._make_wrapper_subclass(cls, (len(keys), *shape), dtype=torch.float32, device=device)
        field.keys = keys
        return field

    def __deepcopy__(self, memo: dict[int, Any]) -> CounterField:
        _, channels, height, width = self.shape
        return CounterField(self.keys, (channels, height, width), self.device)

    def __getitem__(self, place: Any) -> Tensor:
        """The part at ``(..., rows, columns)``, slices of step 1; ``field[...]`` is all of it."""
        match place:
            case builtins.Ellipsis:
                return self._window(slice(None), slice(None))
            case (builtins.Ellipsis, slice(step=None) as rows, slice(step=None) as columns):
                return self._window(rows, columns)
            case _:
                return self[...][place]

    def __setitem__(self, place: Any, values: Any) -> None:
        raise TypeError(_FIXED)

    def numpy(self, *, force: bool = False) -> Any:
        """All of it as an array."""
        return self[...].numpy(force=force)

    def tolist(self) -> Any:
        """All of it as lists."""
        return self[...].tolist()

    def _window(self, *sides: slice) -> Tensor:
        rows, columns = (_bounds(side, length) for side, length in zip(sides, self.shape[-2:], strict=True))
        if native.takes(float64_device(self.device)):
            return native.normal_field(self.keys, self.shape[1], rows, columns).to(self.device)
        return normal_field(self.keys, self.shape[1], rows, columns, self.device)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        """Runs an operation with all of the field.

        Raises:
            TypeError: it would change the field.
        """
        kwargs = kwargs or {}
        if any(isinstance(x, cls) for x in tree_leaves(list(_written(func, args, kwargs)))):
            raise TypeError(_FIXED)
        args, kwargs = tree_map(lambda x: x[...] if isinstance(x, cls) else x, (args, kwargs))
        return func(*args, **kwargs)


_FIXED = "a field of noise cannot be changed; take field[...]"


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Arguments that an operation changes."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[i] if i < len(args) else kwargs.get(argument.name)


def _bounds(side: slice, length: int) -> slice:
    start, stop, _ = side.indices(length)
    return slice(start, max(start, stop))


SOURCES: dict[NoiseSource, Callable[[int, Sequence[str], Shape, Scratch], Noise]] = {
    "counter": CounterNoise,
    "sequential": SequentialNoise,
}
