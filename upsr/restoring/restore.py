"""From an LR image of any size to its restoration: noise, padding, tiles. Every caller goes through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from upsr.config.schema import TileOptions
from upsr.methods.base import Observer, RestorationModel
from upsr.methods.upsr.method import UPSRModel
from upsr.restoring.padding import pad_to_multiple, padded_size
from upsr.restoring.scratch import Scratch
from upsr.restoring.stepwise import Work, restore_stepwise
from upsr.restoring.tiling import Canvas, Tile, tiles_of, whole
from upsr.rng import stacked, torch_generator

_ROOM = 1 << 30
"""Bytes of a batch's state that stay in memory."""


class Restorer(Protocol):
    """Makes restored images of LR images, in whatever way."""

    def __call__(self, lq: Tensor, names: Sequence[str], observe: Observer | None = None) -> Tensor:
        """Super-resolve a batch of equally large images.

        Args:
            lq: (B, C, h, w) in [0, 1].
            names: identity of each image.
            observe: is shown intermediate results, where there are any.

        Returns:
            (B, C, s*h, s*w) in [0, 1], on the device of ``lq``.
        """
        ...


@dataclass(frozen=True)
class ModelRestorer:
    """A model at work, see :func:`restore`.

    A CPU, which gains little by batches, restores their images one by one: products of matrices of another size are summed
    in another order, and so every image's result is the same to the last bit whatever batch it is in.
    """

    model: RestorationModel
    seed: int
    tile: TileOptions | None = None

    def __call__(self, lq: Tensor, names: Sequence[str], observe: Observer | None = None) -> Tensor:
        """See :class:`Restorer`."""
        if lq.device.type != "cpu":
            return restore(self.model, lq, seed=self.seed, names=names, tile=self.tile, observe=observe)
        restored = []
        shown: dict[str, list[Tensor]] = {}
        for i, name in enumerate(names):
            show = None if observe is None else lambda title, image: shown.setdefault(title, []).append(image)
            restored.append(
                restore(self.model, lq[i : i + 1], seed=self.seed, names=[name], tile=self.tile, observe=show)
            )
        if observe is not None:
            for title, images in shown.items():
                observe(title, torch.cat(images))
        return torch.cat(restored)


class NoiseField:
    """The noise of a batch of images, each from its own seed, over the whole images.

    Drawn on the CPU in the unshuffled layout, so that it is the same on every device, whatever batch an image is in;
    a tile cuts its part out of the field, so that it is the same in whatever order tiles come.

    Args:
        seed: seed of the run.
        names: identity of each image.
        shape: (C*s*s, h, w) of one image's field.
    """

    def __init__(self, seed: int, names: Sequence[str], shape: tuple[int, int, int]) -> None:
        self.seed = seed
        self.names = names
        self.shape = shape
        self._draw: tuple[int, Tensor] | None = None

    def draw(self, k: int) -> Tensor:
        """The k-th standard normal tensor, (B, C*s*s, h, w) on the CPU."""
        if self._draw is None or self._draw[0] != k:
            generators = [torch_generator(self.seed, "restore", name, k) for name in self.names]
            self._draw = (k, stacked("randn", self.shape, generators))
        return self._draw[1]

    def fill(self, k: int, field: Tensor) -> None:
        """Write the k-th tensor into ``field``, a plane at a time: where a large field is, it need not be twice.

        The numbers are those of :meth:`draw` where a plane's size is a multiple of 16 (torch makes them in groups of 16).
        """
        for image, name in zip(field, self.names, strict=True):
            generator = torch_generator(self.seed, "restore", name, k)
            for plane in image:
                plane.copy_(torch.randn(plane.shape, generator=generator))


@torch.inference_mode()
def restore(
    model: RestorationModel,
    lq: Tensor,
    *,
    seed: int,
    names: Sequence[str],
    tile: TileOptions | None = None,
    observe: Observer | None = None,
) -> Tensor:
    """Super-resolve a batch of equally large images of any size.

    Args:
        model: on the device that ``lq`` is on.
        lq: (B, C, h, w) in [0, 1].
        seed: seed of the run; the noise of image i is a function of (seed, names[i]).
        names: identity of each image.
        tile: how images larger than a tile are cut; ``None`` restores any size at once.
        observe: is shown the intermediate results; of images that are cut, put together from their tiles.

    Returns:
        (B, C, s*h, s*w) in [0, 1].
    """
    multiple, scale = model.size_multiple, model.scale
    height, width = padded_size(lq.shape[-2:], multiple)
    field = NoiseField(seed, names, (lq.shape[1] * scale**2, height, width))

    def restore_tile(pixels: Tensor, place: Tile, observe: Observer | None = None) -> Tensor:
        padded = pad_to_multiple(pixels, multiple)
        rows = _span(place.top, padded.shape[-2], height)
        columns = _span(place.left, padded.shape[-1], width)
        inside = (..., slice(pixels.shape[-2] * scale), slice(pixels.shape[-1] * scale))
        shown = None if observe is None else lambda name, image: observe(name, image[inside])
        return model.restore(padded, lambda k: field.draw(k)[..., rows, columns].to(lq), shown)[inside]

    if tile is not None and tile.blend == "step" and isinstance(model, UPSRModel):
        return restore_stepwise(model, lq, field.fill, Work(tile, Scratch(lq.device, _ROOM)), observe)
    if tile is None or max(lq.shape[-2:]) <= tile.size:
        return restore_tile(lq, whole(lq), observe)
    canvas = Canvas(lq, scale)
    shown: dict[str, Canvas] = {}
    for place in tiles_of(lq.shape[-2], lq.shape[-1], tile.size, tile.overlap):

        def collect(name: str, image: Tensor, place: Tile = place) -> None:
            shown.setdefault(name, Canvas(lq, scale)).add(image, place)

        pixels = lq[..., place.top : place.bottom, place.left : place.right]
        canvas.add(restore_tile(pixels, place, None if observe is None else collect), place)
    if observe is not None:
        for name, pieces in shown.items():
            observe(name, pieces.result())
    return canvas.result()


def _span(start: int, length: int, field_length: int) -> slice:
    """``length`` places of the field from ``start``, moved inside where a padded tile at the border sticks out."""
    start = min(start, field_length - length)
    return slice(start, start + length)
