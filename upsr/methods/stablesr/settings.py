"""Settings of a restoration with StableSR."""

from __future__ import annotations

from dataclasses import dataclass

from upsr.choices import ColourFix, VPSampler
from upsr.methods.latent_canvas import LatentTiling
from upsr.methods.stable_diffusion import Backbone
from upsr.methods.stablesr.options import Latent, StableSROptions, Start


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
    tiling: LatentTiling

    @classmethod
    def from_options(cls, opt: StableSROptions, backbone: Backbone) -> Sampling:
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
            tiling=LatentTiling.from_options(opt, backbone),
        )
