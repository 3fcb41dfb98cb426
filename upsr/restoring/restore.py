"""From an LR image of any size to its restoration: noise, padding, tiles. Every caller goes through here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from upsr.accelerate.allocator import kept_buffers
from upsr.choices import NOISE, NoiseSource
from upsr.config.schema import TileOptions
from upsr.diffusion.sampling import Noise
from upsr.methods.base import Method, Seen, Watch
from upsr.restoring.noise import SOURCES, Shape
from upsr.tiling.padding import pad_to_multiple, padded_size
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import TilePlan
from upsr.tiling.windows import Canvas, Tile, most_pixels, tiles_of

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
    noise: NoiseSource = NOISE

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", self.method.for_inference(torch.float32))

    def __call__(self, lq: Tensor, names: Sequence[str], watch: Watch | None = None) -> Tensor:
        """See :class:`Restorer`."""
        if lq.device.type != "cpu":
            return self._restored(lq, names, watch)
        restored = []
        shown: dict[tuple[str, Any], list[Tensor]] = {}

        def collect(seen: Seen) -> None:
            shown.setdefault((seen.name, seen.kind), []).append(seen.image)

        for i, name in enumerate(names):
            restored.append(self._restored(lq[i : i + 1], [name], None if watch is None else collect))
        if watch is not None:
            for (title, kind), images in shown.items():
                watch(Seen(title, torch.cat(images), kind))
        return torch.cat(restored)

    def _restored(self, lq: Tensor, names: Sequence[str], watch: Watch | None) -> Tensor:
        return restore(self.method, lq, seed=self.seed, names=names, noise=self.noise, tile=self.tile, watch=watch)


@torch.inference_mode()
def restore(
    method: Method,
    lq: Tensor,
    *,
    seed: int,
    names: Sequence[str],
    noise: NoiseSource = NOISE,
    tile: TileOptions | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Super-resolve a batch of equally large images of any size.

    Args:
        method: on the device that ``lq`` is on.
        lq: (B, C, h, w) in [0, 1].
        seed: seed of the run; the noise of image i is a function of (seed, names[i]).
        names: identity of each image.
        noise: generator of the noise.
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
        return restore_planned(method, lq, plan, seed=seed, names=names, noise=noise, watch=watch)
    return _restore_apart(method, lq, tile, lambda shape: SOURCES[noise](seed, names, shape, Scratch(lq.device)), watch)


@torch.inference_mode()
def restore_planned(
    method: Method,
    lq: Tensor,
    plan: TilePlan,
    *,
    seed: int,
    names: Sequence[str],
    noise: NoiseSource = NOISE,
    watch: Watch | None = None,
) -> Tensor:
    """As :func:`restore`, with the work divided as ``plan`` says; the result may be in a file of its scratch."""
    facts = method.facts
    padded = pad_to_multiple(lq, facts.multiple)
    fields = SOURCES[noise](seed, names, facts.noise_shape(*padded.shape[-2:]), plan.scratch)
    height, width = facts.output_size(*lq.shape[-2:])
    inside = (..., slice(height), slice(width))
    shown = None if watch is None else lambda seen: watch(replace(seen, image=seen.image[inside]))
    with kept_buffers(len(lq) * _pixels_at_once(plan, padded)):
        return method.restore(padded, fields, tiles=plan, watch=shown)[inside]


def _pixels_at_once(plan: TilePlan, lq: Tensor) -> int:
    """LR pixels of an image in one network call, about."""
    height, width = lq.shape[-2:]
    if plan.tile is None:
        return height * width
    return plan.tiles_at_once * min(height * width, most_pixels(plan.tile.size))


def _restore_apart(
    method: Method, lq: Tensor, tile: TileOptions, fields: Callable[[Shape], Noise], watch: Watch | None
) -> Tensor:
    """Restores tiles for themselves and averages them where they overlap, as the released code does."""
    facts = method.facts
    scale, cell = facts.whole_scale("blend: end"), facts.state[1]
    shape = facts.noise_shape(*padded_size(lq.shape[-2:], facts.multiple))
    field = cache(fields(shape))

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
