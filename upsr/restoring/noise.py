"""The noise of a restoration: fields over whole images, each image's from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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


class CounterField:
    """A field of standard normal numbers, (B, channels, height, width), that is not there until a part of it is asked for."""

    def __init__(self, keys: Sequence[int], shape: Shape, device: torch.device) -> None:
        self.keys = keys
        self.shape = torch.Size((len(keys), *shape))
        self.device = device

    def __getitem__(self, place: Any) -> Tensor:
        """The part at ``(..., rows, columns)``, slices of step 1; ``field[...]`` is all of it."""
        height, width = self.shape[-2:]
        _, rows, columns = (..., slice(None), slice(None)) if place is Ellipsis else place
        rows, columns = (slice(*side.indices(length)[:2]) for side, length in ((rows, height), (columns, width)))
        if native.takes(self.device):
            return native.normal_field(self.keys, self.shape[1], rows, columns)
        return normal_field(self.keys, self.shape[1], rows, columns, self.device)


NOISE: dict[NoiseSource, Callable[[int, Sequence[str], Shape, Scratch], Noise]] = {
    "sequential": SequentialNoise,
    "counter": CounterNoise,
}
