"""StableSR (Wang et al., IJCV 2024): Stable Diffusion samples under features of the LR latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr import choices
from upsr.choices import VPSampler
from upsr.diffusion import VariancePreserving, sample, timesteps_from
from upsr.diffusion.sampling import Denoise, Noise, repeated
from upsr.errors import UpsrError
from upsr.methods.base import Knob, Method, Seen, TextKnob, Watch
from upsr.methods.build import load_weights
from upsr.methods.latent_canvas import EnlargedFacts, LatentCanvas, shown_steps
from upsr.methods.stable_diffusion import KEY, PIPELINE, Backbone, backbone_of, half_copies, save
from upsr.methods.stablesr.cfw import WrappedAutoencoder
from upsr.methods.stablesr.networks import trained
from upsr.methods.stablesr.options import Latent, StableSROptions, Start
from upsr.methods.stablesr.settings import Sampling
from upsr.methods.stablesr.sft import Conditioning, ModulatedUNet
from upsr.tiling.tiles import TilePlan, banded, tiled, whole_plan
from upsr.weights.diffusers_folder import class_in

_RELEASED = "structcond_stage_model."
"""Of the names in a released checkpoint."""

_LATENT_DRAW, _START_DRAW = 0, 1
_MOST_SCALE, _MOST_GUIDANCE = 16.0, 20.0


class StableSR(Method):
    """Samples a latent under the time-aware features of the LR latent, in tiles that meet at every step, and decodes it.

    Args:
        denoiser: the frozen U-Net with SFT layers; its ``conditioning`` is trained in stage one.
        autoencoder: frozen, with the fusion blocks of stage two.
        backbone: the folder's networks, with scheduler and prompts.
        sampling: settings of a restoration.
    """

    Options = StableSROptions
    weight_keys: ClassVar[Mapping[str, str]] = {"conditioning": "pretrain_network_g", "cfw": "pretrain_network_cfw"}
    folder_keys: ClassVar[Mapping[str, str]] = {"unet": KEY, "vae": KEY}
    takes = "a folder of diffusers' StableDiffusionPipeline with --part conditioning=FILE and --part cfw=FILE"
    facts: EnlargedFacts

    def __init__(
        self, denoiser: ModulatedUNet, autoencoder: WrappedAutoencoder, backbone: Backbone, sampling: Sampling
    ) -> None:
        super().__init__()
        self.denoiser, self.autoencoder = denoiser, autoencoder
        denoiser.unet.requires_grad_(False).eval()
        autoencoder.vae.requires_grad_(False).eval()
        self.backbone, self.sampling = backbone, sampling
        config = backbone.scheduler.config
        self.process = VariancePreserving(backbone.scheduler.alphas_cumprod, config.prediction_type)
        self.facts = EnlargedFacts.of(backbone, sampling.scale, draws=True)

    @classmethod
    def from_options(cls, opt: StableSROptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        backbone = backbone_of(opt, "StableSR", "docs/methods/stablesr.md")
        conditioning, cfw = trained(opt, backbone)
        load_weights(conditioning, opt, "network_g", "conditioning", optional=training)
        if cfw is not None:
            load_weights(cfw, opt, "network_cfw", "cfw", optional=training)
        sampling = Sampling.from_options(opt, backbone)
        denoiser, autoencoder = ModulatedUNet(backbone.unet, conditioning), WrappedAutoencoder(backbone.vae, cfw)
        method = cls(denoiser, autoencoder, backbone, sampling)
        method.contexts(sampling)  # a prompt that cannot be embedded is refused before the start
        return method

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """Stable Diffusion in a folder of diffusers, with trained networks beside it."""
        if any(name.startswith(_RELEASED) for name in tensors):
            raise UpsrError(
                f"{path}: a released checkpoint is converted first: upsr convert stablesr {path.name} -o FOLDER"
            )
        if tensors or class_in(path) != PIPELINE:
            return None
        if "conditioning" not in beside:
            raise UpsrError(
                f"{path}: Stable Diffusion alone restores no photos; name the weights of StableSR's encoder and SFT layers too: "
                "--part conditioning=FILE"
            )
        paths = {cls.weight_keys[part]: str(file) for part, file in beside.items() if part in cls.weight_keys}
        return {
            "method": "stablesr",
            KEY: str(path.absolute()),
            "path": paths,
            **({} if "cfw" in beside else {"cfw": None}),
        }

    def train(self, mode: bool = True) -> Self:
        """The frozen networks stay in evaluation mode."""
        super().train(mode)
        self.denoiser.unet.eval()
        self.autoencoder.vae.eval()
        return self

    def parts(self) -> Mapping[str, nn.Module]:
        """Encoder with SFT layers, the frozen U-Net and autoencoder, and the fusion blocks where there are any."""
        own = {"conditioning": self.conditioning, "unet": self.denoiser.unet, "vae": self.autoencoder.vae}
        return own if self.autoencoder.cfw is None else {**own, "cfw": self.autoencoder.cfw}

    @property
    def conditioning(self) -> Conditioning:
        """Time-aware encoder and SFT layers."""
        return self.denoiser.conditioning

    @property
    def timesteps(self) -> list[int]:
        """Those of the network calls, descending."""
        return timesteps_from(self.process.num_timesteps - 1, self.sampling.steps)

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`.

        ``noise(0)`` is for the LR latent, ``noise(1)`` for the start, the others are for the steps. The size of ``tiles`` is for
        the autoencoder alone: the latent's tiles have the size that the U-Net was trained on. ``watch`` sees up to eight
        estimates: each has to be decoded.
        """
        own, timesteps, backbone = self.sampling, self.timesteps, self.backbone
        shown = shown_steps(len(timesteps)) if watch else set()
        plan, codings = tiles or whole_plan(lq.device), 2 + len(shown)
        canvas = LatentCanvas(lq, self.facts, plan, own.tiling, backbone.cell, len(timesteps), codings)
        area = canvas.denoised
        drawn = noise(_LATENT_DRAW) if own.latent == "sample" else None
        z_lr = canvas.encoded(
            self.facts.state[0],
            lambda image, w: self.encode(image, None if drawn is None else canvas.coded.cut(drawn, w)),
        )

        def image_of(z: Tensor) -> Tensor:
            return canvas.decoded(z, self._decode, own.colour)

        def show(k: int, x_0: Tensor) -> None:
            if watch and k in shown:
                watch(Seen(f"t={timesteps[k]}", image_of(x_0)))

        t = repeated(timesteps, len(lq), lq.device)
        first = noise(_START_DRAW)
        of_lr = own.start == "noised_lr" or (own.start == "auto" and len(area.windows) > 1)
        x = area.in_bands(
            area.blank(self.facts.state[0]),
            lambda band: (
                self.process.q_sample(area.cut(z_lr, [band]), t[:, 0], area.cut(first, [band]))
                if of_lr
                else area.cut(first, [band])
            ),
        )
        step = self.process.step(own.sampler, own.eta)
        contexts = self.contexts(own)
        x_0 = sample(
            x,
            tiled(lambda windows: self.denoise_given(area.cut(z_lr, windows), contexts), area),
            banded(lambda band: step, area),
            t,
            lambda k: noise(_START_DRAW + k),
            show,
        )
        return image_of(x_0)

    def encode(self, image: Tensor, noise: Tensor | None) -> Tensor:
        """The latent of an image in [-1, 1], float32: a sample of the posterior, or without ``noise`` its mean."""
        dtype = self.autoencoder.vae.dtype
        return self.autoencoder.encode(image.to(dtype), None if noise is None else noise.to(dtype)).float()

    def contexts(self, sampling: Sampling) -> list[Tensor]:
        """Embeddings of the prompt, and under guidance of the negative prompt, on the device and in the type of the U-Net."""
        texts = [sampling.prompt] if sampling.guidance == 1 else [sampling.prompt, sampling.negative_prompt]
        unet = self.denoiser.unet
        return [self.backbone.prompts[text].to(unet.device, unet.dtype) for text in texts]

    def denoise_given(self, z_lr: Tensor, contexts: Sequence[Tensor]) -> Denoise:
        """The estimate of x_0 under an LR latent.

        Args:
            contexts: those of :meth:`contexts`.
        """
        scale, dtype = self.sampling.guidance, self.denoiser.unet.dtype
        contexts = [one.expand(len(z_lr), -1, -1) for one in contexts]
        z_lr = z_lr.to(dtype)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            features = self.conditioning.encoder(z_lr, t)
            outputs = [self.denoiser(x.to(dtype), t, context, features).float() for context in contexts]
            output = outputs[0] if len(outputs) == 1 else outputs[1] + scale * (outputs[0] - outputs[1])
            return self.process.x_0(output, x, t)

        return denoise

    def replaced(self, name: str, network: nn.Module) -> Self:
        """See :meth:`Method.replaced`."""
        owner = "denoiser" if name in self.denoiser.parts() else "autoencoder"
        return self._with(**{owner: getattr(self, owner).replaced(**{name: network})})

    def for_inference(self, dtype: torch.dtype) -> Self:
        """All networks in ``dtype``; the state of the diffusion stays in float32."""
        if dtype == torch.float32:
            return self
        copies = half_copies({name: getattr(self, name) for name in ("denoiser", "autoencoder")}, dtype)
        return self._with(**copies)

    def knobs(self) -> Mapping[str, Knob | TextKnob]:
        """All settings but the sizes of tiles."""
        own = self.sampling
        more = "More: more detail of its own, less like the photo."
        numbers = {
            "scale": Knob("upscaling factor", 1, _MOST_SCALE, own.scale, advanced=True),
            "steps": Knob("network calls", 1, self.process.num_timesteps, own.steps, True, "Fewer: faster."),
            "guidance": Knob("guidance to the prompt; 1 for none", 0, _MOST_GUIDANCE, own.guidance, hint=more),
            "eta": Knob("share of new noise in each step of ddim", 0, 1, own.eta, advanced=True),
        }
        if self.autoencoder.cfw is not None:
            about = "weight of the LR image's features in the decoder"
            numbers["w"] = Knob(about, 0, 1, own.w, hint="More: closer to the photo.")
        return {
            **numbers,
            "prompt": TextKnob("text that describes the result", own.prompt),
            "negative_prompt": TextKnob("text that the result is guided away from", own.negative_prompt),
            "sampler": TextKnob("reverse step", own.sampler, get_args(VPSampler), advanced=True),
            "start": TextKnob("first state", own.start, get_args(Start), advanced=True),
            "latent": TextKnob("of the posterior of the LR image", own.latent, get_args(Latent), advanced=True),
            "colour": TextKnob("correction towards the LR image", own.colour, choices.COLOUR_FIXES),
        }

    def _adjusted(self, **knobs: Any) -> Self:
        if "steps" in knobs:
            knobs["steps"] = int(knobs["steps"])
        sampling = replace(self.sampling, **knobs)
        if sampling.eta and sampling.sampler == "ddpm":
            raise UpsrError("eta: it is a setting of ddim, and the sampler is ddpm")
        self.contexts(sampling)
        return self._with(sampling=sampling)

    def _with(self, **changes: Any) -> Self:
        """The same method but for some arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("denoiser", "autoencoder", "backbone", "sampling")}
        return type(self)(**{**own, **changes}).train(self.training)

    def save_folder(self, key: str, folder: Path) -> None:
        """See :meth:`Method.save_folder`."""
        save(self.backbone, folder, (self.sampling.prompt, self.sampling.negative_prompt))

    def _decode(self, z: Tensor, image: Tensor) -> Tensor:
        dtype = self.autoencoder.vae.dtype
        return self.autoencoder.decode(z.to(dtype), image.to(dtype), self.sampling.w)
