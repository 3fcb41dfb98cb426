"""DM-SR: the LR image is put among the noisy latents of a timestep, from which SD-Turbo takes the noise in one step."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr import choices
from upsr.choices import ColourFix
from upsr.codecs.kl import decoded_image, scaled_latent
from upsr.diffusion import VariancePreserving, sample
from upsr.diffusion.sampling import Denoise, Noise
from upsr.errors import UpsrError
from upsr.methods.base import Knob, Method, Seen, TextKnob, Watch
from upsr.methods.build import load_weights
from upsr.methods.dmsr.encoder import TimestepEncoder
from upsr.methods.dmsr.estimator import TimestepEstimator
from upsr.methods.dmsr.options import DMSROptions
from upsr.methods.latent_canvas import EnlargedFacts, LatentCanvas, LatentTiling, shown_steps
from upsr.methods.stable_diffusion import KEY, PIPELINE, Backbone, backbone_of, half_copies, save
from upsr.tiling.tiles import TilePlan, banded, tiled, whole_plan
from upsr.weights.diffusers_folder import class_in

_MOST_SCALE, _MOST_STEPS = 16.0, 50


@dataclass(frozen=True)
class Sampling:
    """Settings of a restoration; see :mod:`upsr.methods.dmsr.options` for each.

    Attributes:
        t: timestep of every image; ``None`` for the estimator's.
    """

    scale: float
    steps: int
    t: int | None
    prompt: str
    colour: ColourFix
    tiling: LatentTiling


class DMSR(Method):
    """Encodes with the timestep that an image's degradation asks for, denoises the latent in tiles, and decodes it.

    Nothing is drawn: the noise is what the denoiser finds in the encoder's output.

    Args:
        encoder: trained in phase dm.
        estimator: trained in phase timestep; ``None`` where ``sampling.t`` is given.
        backbone: frozen U-Net and autoencoder, with scheduler and prompts.
        sampling: settings of a restoration.
    """

    Options = DMSROptions
    weight_keys: ClassVar[Mapping[str, str]] = {"encoder": "pretrain_network_g", "estimator": "pretrain_network_t"}
    folder_keys: ClassVar[Mapping[str, str]] = {"unet": KEY, "vae": KEY}
    takes = "a folder of diffusers' StableDiffusionPipeline with --part encoder=FILE and --part estimator=FILE"
    facts: EnlargedFacts

    def __init__(
        self, encoder: TimestepEncoder, estimator: TimestepEstimator | None, backbone: Backbone, sampling: Sampling
    ) -> None:
        super().__init__()
        self.encoder, self.estimator = encoder, estimator
        self.unet = backbone.unet.requires_grad_(False).eval()
        self.vae = backbone.vae.requires_grad_(False).eval()
        self.backbone, self.sampling = backbone, sampling
        schedule = backbone.scheduler
        self.process = VariancePreserving(schedule.alphas_cumprod, schedule.config.prediction_type)
        self.facts = EnlargedFacts.of(backbone, sampling.scale, draws=False)

    @classmethod
    def from_options(cls, opt: DMSROptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        backbone = backbone_of(opt, "DM-SR", "docs/methods/dmsr.md")
        encoder = TimestepEncoder(backbone.vae, opt.encoder.embedding)
        load_weights(encoder, opt, "network_g", "encoder", optional=training, beginning="the autoencoder's encoder")
        estimator = None
        if opt.timestep is None:
            estimator = TimestepEstimator(opt.estimator.width, opt.estimator.bins)
            load_weights(estimator, opt, "network_t", "estimator", optional=training)
        tiling = LatentTiling.from_options(opt, backbone)
        method = cls(
            encoder, estimator, backbone, Sampling(opt.scale, opt.steps, opt.timestep, opt.prompt, opt.colour, tiling)
        )
        method.context()  # a prompt that cannot be embedded is refused before the start
        return method

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """Stable Diffusion in a folder of diffusers, with an encoder and an estimator beside it."""
        if tensors or class_in(path) != PIPELINE or "encoder" not in beside:
            return None
        if "estimator" not in beside:
            raise UpsrError(f"{path}: DM-SR needs its timestep estimator too: --part estimator=FILE")
        paths = {cls.weight_keys[part]: str(file) for part, file in beside.items() if part in cls.weight_keys}
        return {"method": "dmsr", KEY: str(path.absolute()), "path": paths}

    @classmethod
    def needed_weights(cls, opt: DMSROptions) -> Mapping[str, str]:
        """See :meth:`Method.needed_weights`; with a fixed timestep there is no estimator."""
        return {part: key for part, key in cls.weight_keys.items() if part != "estimator" or opt.timestep is None}

    def train(self, mode: bool = True) -> Self:
        """The frozen networks stay in evaluation mode."""
        super().train(mode)
        self.unet.eval()
        self.vae.eval()
        return self

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`.

        One timestep is estimated from the whole image, for all of its tiles. The size of ``tiles`` is for the autoencoder alone:
        the latent's tiles have the size that the U-Net was trained on. ``watch`` sees up to eight estimates.
        """
        own = self.sampling
        shown = shown_steps(own.steps) if watch else set()
        plan, codings = tiles or whole_plan(lq.device), 2 + len(shown)
        canvas = LatentCanvas(lq, self.facts, plan, own.tiling, self.backbone.cell, own.steps, codings)
        t = proportional_timesteps(self.timestep_of(canvas.x_lr), own.steps)
        x = canvas.encoded(
            self.vae.config.latent_channels, lambda image, windows: self.encode(image, t[:, 0].repeat(len(windows)))
        )

        def image_of(z: Tensor) -> Tensor:
            return canvas.decoded(z, lambda part, _: self.decode(part), own.colour)

        def show(k: int, z: Tensor) -> None:
            if watch and k in shown:
                watch(Seen(f"step {k + 1}", image_of(z)))

        # Each band of rows keeps the noise of its own first step.
        step_in = functools.cache(lambda band: self.process.reusing_step())
        denoise = self.denoiser(self.context())
        z = sample(x, tiled(lambda windows: denoise, canvas.denoised), banded(step_in, canvas.denoised), t, noise, show)
        return image_of(z)

    def timestep_of(self, x_lr: Tensor) -> Tensor:
        """(B,) int64: the timesteps of upsampled LR images, (B, 3, H, W) in [-1, 1]."""
        if self.sampling.t is not None:
            return torch.full((len(x_lr),), self.sampling.t, device=x_lr.device)
        assert self.estimator is not None
        return rounded(self.estimator(x_lr))

    def encode(self, x_lr: Tensor, t: Tensor) -> Tensor:
        """The latent x_t of upsampled LR images, float32."""
        return self.encoder(x_lr.to(self.vae.dtype), t).float()

    def clean_latent(self, image: Tensor) -> Tensor:
        """The scaled latent of images (B, 3, H, W) in [-1, 1]: the mean of the frozen autoencoder's posterior, float32."""
        return scaled_latent(self.vae, image.to(self.vae.dtype)).float()

    def decode(self, z: Tensor) -> Tensor:
        """(B, 3, H, W) in about [-1, 1], not clamped, of a scaled latent."""
        return decoded_image(self.vae, z.to(self.vae.dtype)).float()

    def context(self) -> Tensor:
        """The embedding of the prompt, (1, tokens, width), on the device and in the type of the U-Net."""
        return self.backbone.prompts[self.sampling.prompt].to(self.unet.device, self.unet.dtype)

    def noise_in(self, x_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The noise that the denoiser finds in x_t, float32; gradients pass through it to x_t."""
        output = self.unet(x_t.to(self.unet.dtype), t, context.expand(len(x_t), -1, -1)).sample.float()
        return self.process.noise(output, x_t, t)

    def image_in(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The image part of x_t (Eq. 2), given its noise part."""
        return self.process.denoised(noise, x_t, t)

    def denoiser(self, context: Tensor) -> Denoise:
        """The estimate of the clean latent under a prompt's embedding."""
        return lambda x, t: self.image_in(x, t, self.noise_in(x, t, context))

    @torch.inference_mode()
    def predicted_noise(self, lq: Tensor) -> Tensor:
        """(B, C, h, w): the noise part of LR images (B, 3, h, w) in [0, 1], at once, without tiles (Fig. 4b)."""
        tiling = replace(self.sampling.tiling, size=None, autoencoder=None)
        canvas = LatentCanvas(lq, self.facts, whole_plan(lq.device), tiling, self.backbone.cell, 1, 1)
        t = self.timestep_of(canvas.x_lr)
        return self.noise_in(self.encode(canvas.image, t), t, self.context())

    def parts(self) -> Mapping[str, nn.Module]:
        """Encoder, estimator where there is one, and the frozen U-Net and autoencoder."""
        own = {"encoder": self.encoder, "estimator": self.estimator, "unet": self.unet, "vae": self.vae}
        return {name: part for name, part in own.items() if part is not None}

    def replaced(self, name: str, network: nn.Module) -> Self:
        """See :meth:`Method.replaced`."""
        return self._with(**{name: network})

    def for_inference(self, dtype: torch.dtype) -> Self:
        """Encoder, U-Net and autoencoder in ``dtype``; the estimator, whose result is rounded, and the state in float32."""
        if dtype == torch.float32:
            return self
        return self._with(**half_copies({name: getattr(self, name) for name in ("encoder", "unet", "vae")}, dtype))

    def knobs(self) -> Mapping[str, Knob | TextKnob]:
        """All settings but the sizes of tiles."""
        own, last = self.sampling, self.process.num_timesteps - 1
        return {
            "scale": Knob("upscaling factor", 1, _MOST_SCALE, own.scale, advanced=True),
            "steps": Knob("network calls", 1, _MOST_STEPS, own.steps, True, "More: smoother."),
            "t": Knob("timestep in place of the estimate", 1, last, own.t, True, "More: more invented."),
            "prompt": TextKnob("text that describes the result", own.prompt),
            "colour": TextKnob("correction towards the LR image", own.colour, choices.COLOUR_FIXES),
        }

    def _adjusted(self, **knobs: Any) -> Self:
        knobs.update({name: int(knobs[name]) for name in ("steps", "t") if name in knobs})
        method = self._with(sampling=replace(self.sampling, **knobs))
        method.context()
        return method

    def _with(self, **changes: Any) -> Self:
        """The same method but for some networks, or the sampling."""
        frozen: dict[str, Any] = {name: changes.pop(name) for name in ("unet", "vae") if name in changes}
        own: dict[str, Any] = {"encoder": self.encoder, "estimator": self.estimator, "sampling": self.sampling}
        return type(self)(**{**own, **changes}, backbone=self.backbone._replace(**frozen)).train(self.training)

    def save_folder(self, key: str, folder: Path) -> None:
        """See :meth:`Method.save_folder`."""
        save(self.backbone, folder, [self.sampling.prompt])


def rounded(t: Tensor) -> Tensor:
    """Timesteps to the nearest integer, halves up, int64."""
    return (t + 0.5).floor().long()


def proportional_timesteps(t: Tensor, steps: int) -> Tensor:
    """(B, steps) timesteps of a restoration in several steps: t (K - k) / K, rounded (Sec. 4.4).

    Args:
        t: (B,) int64.
    """
    left = torch.arange(steps, 0, -1, device=t.device)
    return (2 * t[:, None] * left + steps) // (2 * steps)
