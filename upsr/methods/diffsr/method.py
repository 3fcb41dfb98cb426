"""Diff-SR: the upsampled image is noised to a level that fits the scale, and an unconditional diffusion model denoises it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from upsr.archs.contracts import NoisePredictor
from upsr.choices import VPSampler
from upsr.codecs import Codec
from upsr.config.schema import TileOptions
from upsr.diffusion import VariancePreserving, alphas_cumprod, sample, schedule_betas, timesteps_from
from upsr.diffusion.sampling import Denoise, Noise, repeated
from upsr.errors import UpsrError
from upsr.methods.base import Facts, Knob, Method, Seen, Watch
from upsr.methods.build import build_network, load_weights
from upsr.methods.diffsr.files import released_options
from upsr.methods.diffsr.noise_level import NoiseLevel, noise_level_of
from upsr.methods.diffsr.options import DiffSROptions
from upsr.tiling.padding import pad_to_size
from upsr.tiling.tiles import TilePlan, Tiles, banded, tiled, whole_plan
from upsr.tiling.windows import Tile

_OVERLAP = 4
"""Tiles overlap by their side divided by it."""
_MOST_LEVEL = 0.99
_MOST_SCALE = 16.0


@dataclass(frozen=True)
class Sampling:
    """Settings of a restoration.

    Attributes:
        scale: upscaling factor.
        policy: noise level t / T for a scale.
        level: noise level in place of the policy's.
        sampler: reverse step.
        steps: network calls, at most t + 1; ``None`` for all.
        eta: share of new noise in each step of DDIM.
    """

    scale: float
    policy: NoiseLevel
    level: float | None = None
    sampler: VPSampler = "ddim"
    steps: int | None = 50
    eta: float = 0.0


class DiffSR(Method):
    """Diffusion from the noised upsampled image, in the pixels or the latent of the denoiser's training.

    Images that are not of the denoiser's size are denoised in tiles of that size, which meet at every step.

    Args:
        denoiser: called as (x, t).
        codec: frozen autoencoder; ``None`` for pixels.
        process: variance-preserving process of the denoiser.
        sampling: settings of a restoration.
        clip: estimates of images are clipped to [-1, 1]; those of latents are not.
    """

    Options = DiffSROptions
    weight_keys: ClassVar[Mapping[str, str]] = {"denoiser": "pretrain_network_g"}
    takes = "a folder of diffusers' DDPMPipeline, DDIMPipeline or UNet2DModel"

    def __init__(
        self,
        denoiser: NoisePredictor,
        codec: Codec | None,
        process: VariancePreserving,
        sampling: Sampling,
        *,
        clip: bool = True,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.codec = None if codec is None else codec.requires_grad_(False).eval()
        self.process, self.sampling, self.clip = process, sampling, clip
        self.cell = 1 if codec is None else codec.factor
        # Tiles begin at multiples of 8 cells.
        multiple = math.lcm(denoiser.size_multiple, 8)
        least = -(-denoiser.sample_size // multiple) * multiple
        image_channels = denoiser.channels if codec is None else 3
        self.facts = Facts(
            sampling.scale,
            image_channels,
            state=(denoiser.channels, self.cell),
            canvas=(least * self.cell, multiple * self.cell),
        )

    @classmethod
    def from_options(cls, opt: DiffSROptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        denoiser = build_network(opt.network_g, "network_g", contract=NoisePredictor)
        codec = None if opt.codec is None else build_network(opt.codec, "codec", contract=Codec)
        if codec is not None and codec.channels != denoiser.channels:
            raise UpsrError(
                f"codec: its latent has {codec.channels} channels, but network_g has {denoiser.channels}; make them agree"
            )
        load_weights(denoiser, opt, "network_g", "denoiser", optional=training)
        d, own = opt.diffusion, opt.sampler
        betas = schedule_betas(d.schedule, d.steps, beta_start=d.beta_start, beta_end=d.beta_end)
        process = VariancePreserving(alphas_cumprod(betas), d.prediction)
        policy = noise_level_of(opt.noise_level, process)
        policy(opt.scale)  # a calibration for other scales is refused before the start
        sampling = Sampling(opt.scale, policy, None, own.type, own.steps, own.eta)
        return cls(denoiser, codec, process, sampling, clip=d.clip)

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """The networks of a folder of diffusers, see :func:`upsr.methods.diffsr.files.released_options`."""
        return None if tensors else released_options(path)

    def train(self, mode: bool = True) -> Self:
        """The autoencoder stays in evaluation mode."""
        super().train(mode)
        if self.codec is not None:
            self.codec.eval()
        return self

    def parts(self) -> Mapping[str, nn.Module]:
        """The denoiser; an autoencoder has its weights from its own folder."""
        return {"denoiser": self.denoiser}

    @property
    def timesteps(self) -> list[int]:
        """Those of the network calls, descending; none at the noise level 0."""
        own, total = self.sampling, self.process.num_timesteps
        level = own.policy(own.scale) if own.level is None else own.level
        start = min(round(level * total), total - 1)
        return timesteps_from(start, own.steps) if start else []

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`.

        ``watch`` sees the upsampled image ``y``, the noised one ``x_t`` and each estimate. Of ``tiles`` all but the size is used.
        """
        plan, timesteps = tiles or whole_plan(lq.device), self.timesteps
        side = self.facts.canvas[0] // self.cell
        size = self.facts.output_size(*lq.shape[-2:])
        y = F.interpolate(2 * lq - 1, size=size, mode="bicubic", align_corners=False)
        canvas = pad_to_size(y, self.facts.canvas_size(*lq.shape[-2:]))
        cells = canvas[..., :: self.cell, :: self.cell]
        # With its size as their multiple, all tiles have exactly this size: twice of it is a larger area than tiles may have.
        own_tile = TileOptions(size=side, overlap=side // _OVERLAP, blend="step")
        area = Tiles(replace(plan, tile=own_tile), cells, side, passes=max(len(timesteps), 1))

        def image_of(state: Tensor) -> Tensor:
            return self._decoded(state, area)[..., : size[0], : size[1]]

        def show(name: str, state: Tensor) -> None:
            if watch is not None:
                watch(Seen(name, image_of(state)))

        x_0 = self._encoded(canvas, area)
        show("y", x_0)
        if not timesteps:
            return image_of(x_0)
        t = repeated(timesteps, len(lq), lq.device)
        first = noise(0)
        x = area.in_bands(
            area.blank(self.denoiser.channels),
            lambda band: self.process.q_sample(area.cut(x_0, [band]), t[:, 0], area.cut(first, [band])),
        )
        show(f"x_{timesteps[0]}", x)
        step = self.process.step(self.sampling.sampler, self.sampling.eta)
        x_0 = sample(
            x,
            tiled(lambda windows: self.estimate, area),
            banded(lambda band: step, area),
            t,
            noise,
            lambda k, x_0: show(f"t={timesteps[k]}", x_0),
        )
        return image_of(x_0)

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] in the space of the diffusion."""
        return 2 * image - 1 if self.codec is None else self.codec.encode(2 * image - 1)

    @property
    def estimate(self) -> Denoise:
        """The denoiser's estimate of x_0."""

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            x_0 = self.process.x_0(self.denoiser(x, t), x, t)
            return x_0.clamp(-1, 1) if self.clip and self.codec is None else x_0

        return denoise

    def replaced(self, name: str, network: nn.Module) -> Self:
        """See :meth:`Method.replaced`."""
        return self._with(**{name: network})

    def knobs(self) -> Mapping[str, Knob]:
        """Scale, noise level, steps and eta."""
        own = self.sampling
        hint = "Less: closer to the photo. More: more detail of its own."
        return {
            "scale": Knob("upscaling factor", 1, _MOST_SCALE, own.scale, advanced=True),
            "noise_level": Knob(
                "t / T of the noised image; by the scale where it is not set", 0, _MOST_LEVEL, hint=hint
            ),
            "steps": Knob(
                "network calls",
                1,
                self.process.num_timesteps,
                own.steps or self.process.num_timesteps,
                True,
                "Fewer: faster.",
            ),
            "eta": Knob("share of new noise in each step of DDIM", 0, 1, own.eta, advanced=True),
        }

    def _adjusted(self, **knobs: Any) -> Self:
        names = {"scale": "scale", "noise_level": "level", "steps": "steps", "eta": "eta"}
        changes = {names[name]: value for name, value in knobs.items()}
        if changes.get("eta") and self.sampling.sampler == "ddpm":
            raise UpsrError("eta: it is a setting of DDIM, and the sampler is ddpm")
        if "steps" in changes:
            changes["steps"] = int(changes["steps"])
        sampling = replace(self.sampling, **changes)
        if sampling.level is None:
            sampling.policy(sampling.scale)
        return self._with(sampling=sampling)

    def _with(self, **changes: Any) -> Self:
        """The same method but for some arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("denoiser", "codec", "process", "sampling", "clip")}
        return type(self)(**{**own, **changes}).train(self.training)

    def _encoded(self, image: Tensor, area: Tiles) -> Tensor:
        """An image in [-1, 1] in the space of the diffusion."""
        codec = self.codec
        if codec is None:
            return image
        return area.blend(area.blank(codec.channels), lambda w: codec.encode(area.cut(image, w, self.cell)))

    def _decoded(self, state: Tensor, area: Tiles) -> Tensor:
        """(B, C, H, W) in [0, 1] of the whole canvas."""
        codec = self.codec

        def pixels(windows: Sequence[Tile]) -> Tensor:
            part = area.cut(state, windows)
            image = part if codec is None else codec.decode(part)
            # An infinite value stays visible as such after the clamp.
            return (image.masked_fill(image.isinf(), torch.nan).clamp(-1, 1) + 1) / 2

        out = area.blank(self.facts.channels, self.cell)
        if codec is None:
            return area.in_bands(out, lambda band: pixels([band]))
        return area.blend(out, pixels, self.cell)
