"""From an LR image of any size to its restoration: noise, padding, tiles. Every caller goes through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from upsr.accelerate.allocator import kept_buffers
from upsr.config.schema import TileOptions
from upsr.methods.base import Method, Seen, Watch
from upsr.rng import torch_generator
from upsr.tiling.padding import pad_to_multiple, padded_size
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import TilePlan
from upsr.tiling.windows import Canvas, Tile, tiles_of

_ROOM = 1 << 30
"""Bytes of a batch's state that stay in memory."""


class Restorer(Protocol):
    """Makes restored images of LR images, in whatever way."""

    def __call__(self, lq: Tensor, names: Sequence[str], watch: Watch | None = None) -> Tensor:
        """Super-resolve a batch of equally large images.

        Args:
            lq: (B, C, h, w) in [0, 1].
            names: identity of each image.
            watch: sees intermediate results, where there are any.

        Returns:
            (B, C, H, W) in [0, 1], of the output's size, on the device of ``lq``.
        """
        ...


@dataclass(frozen=True)
class ModelRestorer:
    """A method at work, see :func:`restore`.

    A CPU, which gains little by batches, restores their images one by one: products of matrices of another size are summed
    in another order, and so every image's result is the same to the last bit whatever batch it is in.

    Args:
        method: restores in its faster form; its weights do not change while the restorer is in use.
    """

    method: Method
    seed: int
    tile: TileOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", self.method.for_inference(torch.float32))

    def __call__(self, lq: Tensor, names: Sequence[str], watch: Watch | None = None) -> Tensor:
        """See :class:`Restorer`."""
        if lq.device.type != "cpu":
            return restore(self.method, lq, seed=self.seed, names=names, tile=self.tile, watch=watch)
        restored = []
        shown: dict[tuple[str, Any], list[Tensor]] = {}

        def collect(seen: Seen) -> None:
            shown.setdefault((seen.name, seen.kind), []).append(seen.image)

        for i, name in enumerate(names):
            show = None if watch is None else collect
            restored.append(
                restore(self.method, lq[i : i + 1], seed=self.seed, names=[name], tile=self.tile, watch=show)
            )
        if watch is not None:
            for (title, kind), images in shown.items():
                watch(Seen(title, torch.cat(images), kind))
        return torch.cat(restored)


class NoiseField:
    """The noise of a batch of images, each from its own seed, over the whole images.

    Drawn on the CPU, a plane of a cell's channel at a time, so that it is the same on every device, whatever batch an image is
    in, and a large field in a file costs no memory.

    Args:
        seed: seed of the run.
        names: identity of each image.
        shape: (channels, height, width) of one image's field, see :meth:`Facts.noise_shape`.
        scratch: makes the fields.
    """

    def __init__(self, seed: int, names: Sequence[str], shape: tuple[int, int, int], scratch: Scratch) -> None:
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


@torch.inference_mode()
def restore(
    method: Method,
    lq: Tensor,
    *,
    seed: int,
    names: Sequence[str],
    tile: TileOptions | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Super-resolve a batch of equally large images of any size.

    Args:
        method: on the device that ``lq`` is on.
        lq: (B, C, h, w) in [0, 1].
        seed: seed of the run; the noise of image i is a function of (seed, names[i]).
        names: identity of each image.
        tile: how images larger than a tile are cut; ``None`` restores any size at once.
        watch: sees the intermediate results; of images that are cut, put together from their tiles.

    Returns:
        (B, C, *method.facts.output_size(h, w)) in [0, 1].

    Raises:
        UpsrError: the images are cut into tiles that are averaged at the end, and the scale is a fraction.
    """
    in_steps = tile is None or tile.blend == "step"
    plan = TilePlan(tile if in_steps else None, Scratch(lq.device, _ROOM))
    if tile is None or in_steps or max(lq.shape[-2:]) <= tile.size:
        return restore_planned(method, lq, plan, seed=seed, names=names, watch=watch)
    return _restore_apart(method, lq, tile, seed=seed, names=names, watch=watch)


@torch.inference_mode()
def restore_planned(
    method: Method, lq: Tensor, plan: TilePlan, *, seed: int, names: Sequence[str], watch: Watch | None = None
) -> Tensor:
    """As :func:`restore`, with the work divided as ``plan`` says; the result may be in a file of its scratch."""
    facts = method.facts
    padded = pad_to_multiple(lq, facts.multiple)
    noise = NoiseField(seed, names, facts.noise_shape(*padded.shape[-2:]), plan.scratch)
    height, width = facts.output_size(*lq.shape[-2:])
    inside = (..., slice(height), slice(width))
    shown = None if watch is None else lambda seen: watch(replace(seen, image=seen.image[inside]))
    with kept_buffers(len(lq) * _pixels_at_once(plan, padded)):
        return method.restore(padded, noise, tiles=plan, watch=shown)[inside]


def _pixels_at_once(plan: TilePlan, lq: Tensor) -> int:
    """LR pixels of an image in one network call, about."""
    height, width = lq.shape[-2:]
    if plan.tile is None:
        return height * width
    return plan.tiles_at_once * min(plan.tile.size, height) * min(plan.tile.size, width)


def _restore_apart(
    method: Method, lq: Tensor, tile: TileOptions, *, seed: int, names: Sequence[str], watch: Watch | None
) -> Tensor:
    """Restores tiles for themselves and averages them where they overlap, as the released code does."""
    facts = method.facts
    scale, cell = facts.whole_scale("blend: end"), facts.state[1]
    shape = facts.noise_shape(*padded_size(lq.shape[-2:], facts.multiple))
    field = cache(NoiseField(seed, names, shape, Scratch(lq.device)))

    def restore_tile(pixels: Tensor, place: Tile, watch: Watch | None) -> Tensor:
        padded = pad_to_multiple(pixels, facts.multiple)
        _, rows, columns = facts.noise_shape(*padded.shape[-2:])
        top, left = min(place.top * scale // cell, shape[1] - rows), min(place.left * scale // cell, shape[2] - columns)
        inside = (..., slice(pixels.shape[-2] * scale), slice(pixels.shape[-1] * scale))
        shown = None if watch is None else lambda seen: watch(replace(seen, image=seen.image[inside]))

        def noise(k: int) -> Tensor:
            return field(k)[..., top : top + rows, left : left + columns]

        with kept_buffers(padded[:, 0].numel()):
            return method.restore(padded, noise, watch=shown)[inside]

    canvas = Canvas(lq, scale)
    shown: dict[tuple[str, Any], Canvas] = {}
    for place in tiles_of(lq.shape[-2], lq.shape[-1], tile.size, tile.overlap):

        def collect(seen: Seen, place: Tile = place) -> None:
            shown.setdefault((seen.name, seen.kind), Canvas(lq, scale)).add(seen.image, place)

        pixels = lq[..., place.top : place.bottom, place.left : place.right]
        canvas.add(restore_tile(pixels, place, None if watch is None else collect), place)
    if watch is not None:
        for (name, kind), pieces in shown.items():
            watch(Seen(name, pieces.result(), kind))
    return canvas.result()
