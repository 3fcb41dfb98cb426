"""The image that a latent diffusion restores: enlarged, cut into tiles of the latent and of the autoencoder, decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.choices import ColourFix
from upsr.config.schema import TileOptions
from upsr.errors import UpsrError
from upsr.methods.base import Facts
from upsr.methods.options import AggregationOptions, AutoencoderTileOptions, StableDiffusionOptions
from upsr.methods.stable_diffusion import Backbone
from upsr.tiling.colour import COLOUR_FIXES
from upsr.tiling.padding import pad_to_size
from upsr.tiling.tiles import TilePlan, Tiles
from upsr.tiling.windows import Tile, gaussian_windows

_MULTIPLE = 32
"""Sides of the image that is restored are multiples of it, as in StableSR's released scripts."""

_VALUES = 6
"""Maps of the autoencoder's first level that are held at once, about."""


_SHOWN = 8
"""Each has to be decoded."""


@dataclass(frozen=True)
class EnlargedFacts(Facts):
    """Facts of a method that enlarges small images to the size its networks were trained on, and reduces the result.

    The shorter side of the image that the diffusion works on is at least ``canvas[0]``.
    """

    @classmethod
    def of(cls, backbone: Backbone, scale: float, *, draws: bool) -> EnlargedFacts:
        """Those of a method on Stable Diffusion.

        Args:
            draws: a restoration takes noise.
        """
        cell, config = backbone.cell, backbone.unet.config
        return cls(
            scale,
            3,
            state=(config.in_channels, cell) if draws else (0, 1),
            # Peak memory is in the autoencoder, at the size of the result.
            values_per_pixel=round(_VALUES * backbone.vae.config.block_out_channels[0] * scale**2),
            canvas=(config.sample_size * cell, _MULTIPLE),
        )

    def enlarged_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the image that is restored: the output's, or larger in the same proportions."""
        factor = max(self.canvas[0] / min(height, width), self.scale)
        return round(factor * height), round(factor * width)

    def canvas_size(self, height: int, width: int) -> tuple[int, int]:
        """:meth:`enlarged_size`, raised to multiples of ``canvas[1]``."""
        multiple = self.canvas[1]
        rows, columns = (-(-side // multiple) * multiple for side in self.enlarged_size(height, width))
        return rows, columns


@dataclass(frozen=True)
class LatentTiling:
    """Tiles of the latent, which meet at every step, and of the autoencoder.

    Attributes:
        size, overlap: of the latent's tiles, in cells; ``None`` for latents of any size at once.
        lower: middle of the weights of a tile's rows, in cells from its top.
        autoencoder: see :class:`upsr.methods.options.AutoencoderTileOptions`.
    """

    size: int | None
    overlap: int
    lower: float
    autoencoder: AutoencoderTileOptions | None

    @classmethod
    def from_options(cls, opt: StableDiffusionOptions, backbone: Backbone) -> LatentTiling:
        """The tiles of an option file; by default those of the size that the U-Net was trained on.

        Raises:
            UpsrError: they overlap by their size or more.
        """
        own = opt.aggregation
        if own is None:
            return cls(None, 0, 0.0, opt.autoencoder_tile)
        size = int(backbone.unet.config.sample_size) if own.size is None else own.size
        overlap = size // 2 if own.overlap is None else own.overlap
        if overlap >= size:
            raise UpsrError(f"aggregation.overlap: {overlap} cells, but a tile has {size}; give fewer")
        return cls(size, overlap, _middle(own, size), opt.autoencoder_tile)

    def axes(self, cells: Tensor) -> tuple[Mapping[int, Tensor], Mapping[int, Tensor]]:
        """Tiles of the latent along its rows and columns."""
        height, width = cells.shape[-2:]
        if self.size is None:
            return {0: cells.new_ones(height)}, {0: cells.new_ones(width)}
        rows = gaussian_windows(height, self.size, self.overlap, self.lower, cells.device)
        return rows, gaussian_windows(width, self.size, self.overlap, (self.size - 1) / 2, cells.device)

    def coded_in(self, plan: TilePlan, scale: float, cell: int) -> TilePlan:
        """The plan with the autoencoder's tiles, in cells: those of the options, or the plan's if they are smaller."""
        own = self.autoencoder
        sides = [own.size] if own else []
        if plan.tile is not None:
            sides.append(max(int(plan.tile.size * scale), 8 * cell))
        if not sides:
            return replace(plan, tile=None)
        size = min(sides) // cell
        overlap = min((own.overlap if own else size) // cell, size // 2)
        return replace(plan, tile=TileOptions(size=size, overlap=overlap))


class LatentCanvas:
    """One batch of LR images during a restoration.

    Args:
        lq: (B, 3, h, w) in [0, 1].
        cell: pixels per side of a cell of the latent.
        steps: passes of the U-Net that are to come.
        codings: passes of the autoencoder that are to come.

    Attributes:
        x_lr: (B, 3, H, W) in [-1, 1], the upsampled LR images.
        image: ``x_lr``, extended to whole cells.
        denoised: tiles of the latent.
        coded: tiles of the autoencoder.
    """

    def __init__(
        self,
        lq: Tensor,
        facts: EnlargedFacts,
        plan: TilePlan,
        tiling: LatentTiling,
        cell: int,
        steps: int,
        codings: int,
    ) -> None:
        self.size, self.cell = facts.output_size(*lq.shape[-2:]), cell
        self.x_lr = upsampled(lq, facts.enlarged_size(*lq.shape[-2:]))
        self.image = pad_to_size(self.x_lr, facts.canvas_size(*lq.shape[-2:]))
        cells = self.image[..., ::cell, ::cell]
        self.denoised = Tiles(plan, cells, 1, steps, axes=tiling.axes(cells))
        self.coded = Tiles(tiling.coded_in(plan, facts.scale, cell), cells, 1, passes=codings, beside=self.denoised)

    def encoded(self, channels: int, encode: Callable[[Tensor, Sequence[Tile]], Tensor]) -> Tensor:
        """(B, channels, H/cell, W/cell): the latent of ``image``.

        Args:
            encode: the latents of parts of the image, given with the windows of cells that they are of.
        """
        tiles = self.coded
        return tiles.blend(tiles.blank(channels), lambda w: encode(tiles.cut(self.image, w, self.cell), w))

    def decoded(self, z: Tensor, decode: Callable[[Tensor, Tensor], Tensor], colour: ColourFix) -> Tensor:
        """(B, 3, *output size) in [0, 1], with the colours of the LR images.

        Args:
            decode: the images in [-1, 1] of parts of the latent, given with the parts of ``image`` in their places.
        """
        tiles, x_lr = self.coded, self.x_lr
        out = tiles.blend(
            tiles.blank(3, self.cell),
            lambda w: decode(tiles.cut(z, w), tiles.cut(self.image, w, self.cell)).float(),
            self.cell,
        )
        out = out[..., : x_lr.shape[-2], : x_lr.shape[-1]]
        # An infinite value stays visible as such after the clamp.
        out.masked_fill_(out.isinf(), torch.nan).add_(1).div_(2)
        scratch = tiles.plan.scratch
        for one, like in zip(out.split(1), x_lr.split(1), strict=True):
            one.copy_(COLOUR_FIXES[colour](one, (like + 1) / 2, scratch))
        if tuple(out.shape[-2:]) != self.size:
            out = F.interpolate(out, size=self.size, mode="bicubic", antialias=True, align_corners=False)
        return out.clamp_(0, 1)


def upsampled(lq: Tensor, size: Sequence[int]) -> Tensor:
    """(B, 3, h, w) in [0, 1] -> (B, 3, *size) in [-1, 1], bicubic."""
    return F.interpolate(2 * lq - 1, size=tuple(size), mode="bicubic", align_corners=False).clamp_(-1, 1)


def shown_steps(steps: int) -> set[int]:
    """Numbers of the steps whose estimates are shown, at most eight, evenly spaced, the last among them."""
    count = min(steps, _SHOWN)
    return {steps - 1 - i * (steps - 1) // max(count - 1, 1) for i in range(count)}


def _middle(own: AggregationOptions, size: int) -> float:
    return size / 2 if own.centre == "released" else (size - 1) / 2
