"""The noise of a restoration: fields over whole images, each image's from its own seed."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from upsr.accelerate.native import normal as native
from upsr.choices import NoiseSource
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

    Windows are drawn when they are cut out. For any other operation all of it is, each time anew.

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

    def __getitem__(self, place: Any) -> Tensor:
        """The part at ``(..., rows, columns)``, slices of step 1; ``field[...]`` is all of it."""
        match place:
            case builtins.Ellipsis:
                return self._window(slice(None), slice(None))
            case (builtins.Ellipsis, slice(step=None) as rows, slice(step=None) as columns):
                return self._window(rows, columns)
            case _:
                return self[...][place]

    def _window(self, *sides: slice) -> Tensor:
        rows, columns = (_bounds(side, length) for side, length in zip(sides, self.shape[-2:], strict=True))
        if native.takes(self.device):
            return native.normal_field(self.keys, self.shape[1], rows, columns)
        return normal_field(self.keys, self.shape[1], rows, columns, self.device)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        """Runs an operation with all of the field.

        Raises:
            TypeError: it changes the field, whose numbers are not kept.
        """
        if func._schema.is_mutable and isinstance(args[0], cls):
            raise TypeError("a field of noise cannot be changed in place; take field[...]")
        args, kwargs = tree_map(lambda x: x[...] if isinstance(x, cls) else x, (args, kwargs or {}))
        return func(*args, **kwargs)


def _bounds(side: slice, length: int) -> slice:
    start, stop, _ = side.indices(length)
    return slice(start, max(start, stop))


SOURCES: dict[NoiseSource, Callable[[int, Sequence[str], Shape, Scratch], Noise]] = {
    "counter": CounterNoise,
    "sequential": SequentialNoise,
}
