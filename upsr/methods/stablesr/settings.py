"""Settings of a restoration with StableSR, and the sizes that follow from its scale."""

from __future__ import annotations

from dataclasses import dataclass

from upsr.choices import ColourFix, VPSampler
from upsr.methods.base import Facts
from upsr.methods.stablesr.options import AggregationOptions, AutoencoderTileOptions, Latent, StableSROptions, Start


@dataclass(frozen=True)
class Sampling:
    """Settings of a restoration; see :mod:`upsr.methods.stablesr.options` for each."""

    scale: float
    sampler: VPSampler
    steps: int
    eta: float
    start: Start
    latent: Latent
    guidance: float
    prompt: str
    negative_prompt: str
    w: float
    colour: ColourFix
    aggregation: AggregationOptions | None
    autoencoder_tile: AutoencoderTileOptions | None

    @classmethod
    def from_options(cls, opt: StableSROptions) -> Sampling:
        """The settings of an option file."""
        s, g = opt.sampler, opt.guidance
        return cls(
            scale=opt.scale,
            sampler=s.type,
            steps=s.steps,
            eta=s.eta,
            start=opt.start,
            latent=opt.latent,
            guidance=g.scale,
            prompt=g.prompt,
            negative_prompt=g.negative_prompt,
            w=opt.cfw.w if opt.cfw else 0.0,
            colour=opt.colour,
            aggregation=opt.aggregation,
            autoencoder_tile=opt.autoencoder_tile,
        )


@dataclass(frozen=True)
class EnlargedFacts(Facts):
    """Facts of a method that enlarges small images to the size its networks were trained on, and reduces the result.

    The shorter side of the image that the diffusion works on is at least ``canvas[0]``.
    """

    def enlarged_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the image that is restored: the output's, or larger in the same proportions."""
        factor = max(self.canvas[0] / min(height, width), self.scale)
        return round(factor * height), round(factor * width)

    def canvas_size(self, height: int, width: int) -> tuple[int, int]:
        """:meth:`enlarged_size`, raised to multiples of ``canvas[1]``."""
        multiple = self.canvas[1]
        rows, columns = (-(-side // multiple) * multiple for side in self.enlarged_size(height, width))
        return rows, columns
