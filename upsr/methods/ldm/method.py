"""LDM-SR (Rombach et al., CVPR 2022): latent diffusion that sees the LR image beside the latent of its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.codecs.vq import decoded
from upsr.diffusion import VariancePreserving, sample
from upsr.diffusion.sampling import Denoise, Noise, repeated
from upsr.errors import UpsrError
from upsr.methods.base import Facts, Knob, Method, Watch
from upsr.methods.ldm.networks import PIPELINE, Networks, published, read, save
from upsr.methods.ldm.options import LDMOptions
from upsr.tiling.tiles import TilePlan, Tiles, banded, tiled, whole_plan
from upsr.tiling.windows import Tile
from upsr.weights.diffusers_folder import class_in

_KEY = "backbone"


@dataclass(frozen=True)
class Sampling:
    """Settings of a restoration.

    Attributes:
        steps: network calls.
        eta: share of new noise in each step, 0 to 1.
    """

    steps: int
    eta: float = 0.0


class LatentDiffusionSR(Method):
    """Denoises a latent of the LR image's size, beside the LR image, and decodes it to the result.

    Args:
        networks: U-Net, called as (latent and LR image, t); VQ autoencoder; scheduler, whose numbers are used.
    """

    Options = LDMOptions
    folder_keys: ClassVar[Mapping[str, str]] = {"unet": _KEY, "autoencoder": _KEY}
    takes = f"a folder of diffusers' {PIPELINE}"

    def __init__(self, networks: Networks, sampling: Sampling) -> None:
        super().__init__()
        self.unet, self.autoencoder, self.scheduler = networks
        self.sampling = sampling
        own = self.scheduler.config
        self.process = VariancePreserving(self.scheduler.alphas_cumprod, own.prediction_type)
        self.bound = own.clip_sample_range if own.clip_sample else None
        widths = self.autoencoder.config.block_out_channels
        scale, multiple = 2 ** (len(widths) - 1), 2 ** (len(self.unet.config.block_out_channels) - 1)
        state = (self.unet.config.out_channels, scale)
        # Peak memory is in the decoder, at the HR size.
        self.facts = Facts(scale, 3, multiple, state, values_per_pixel=6 * widths[0] * scale**2)

    @classmethod
    def from_options(cls, opt: LDMOptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        if opt.backbone is None and not opt.path.allow_random_weights:
            raise UpsrError(f"backbone: LDM-SR needs {cls.takes}; docs/methods/ldm.md says where one is")
        networks = published() if opt.backbone is None else read(opt.backbone)
        method = cls(networks, Sampling(opt.steps, opt.eta))
        if method.facts.scale != opt.scale:
            raise UpsrError(
                f"{_KEY}: the networks are x{method.facts.scale}, but scale is {opt.scale}; make them agree"
            )
        return method

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """The networks of a folder of diffusers."""
        if class_in(path) != PIPELINE:
            return None
        return {"method": "ldm", _KEY: str(path.absolute()), "path": {}}

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`; nothing is shown."""
        timesteps = self.timesteps()
        area = Tiles(tiles or whole_plan(lq.device), lq, self.facts.multiple, passes=1 + len(timesteps))

        def denoise_in(windows: Sequence[Tile]) -> Denoise:
            return self.denoiser(area.cut(lq, windows))

        step = self.process.step("ddim", self.sampling.eta)
        first = noise(0)
        latent = sample(
            area.in_bands(area.blank(first.shape[1]), lambda band: area.cut(first, [band])),
            tiled(denoise_in, area),
            banded(lambda _: step, area),
            repeated(timesteps, len(lq), lq.device),
            noise,
        )
        return self._decoded(latent, area)

    def denoiser(self, lq: Tensor) -> Denoise:
        """Estimates of the latent under a condition, (B, 3, h, w) in [0, 1]."""

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            output = self.unet(torch.cat([x, 2 * lq - 1], dim=1), t).sample
            x_0 = self.process.x_0(output, x, t)
            return x_0 if self.bound is None else x_0.clamp(-self.bound, self.bound)

        return denoise

    def timesteps(self) -> list[int]:
        """Those of the network calls, descending by one distance: diffusers' spacing "leading"."""
        total, count = self.process.num_timesteps, self.sampling.steps
        first = self.scheduler.config.steps_offset
        return [min(k * (total // count) + first, total - 1) for k in reversed(range(count))]

    def knobs(self) -> Mapping[str, Knob]:
        """Steps and the share of new noise."""
        most = self.process.num_timesteps
        about = "share of new noise in each step: 0 for DDIM, 1 for DDPM"
        return {
            "steps": Knob("network calls", 1, most, self.sampling.steps, True, hint="Fewer: faster."),
            "eta": Knob(about, 0, 1, self.sampling.eta, advanced=True),
        }

    def _adjusted(self, **knobs: Any) -> Self:
        steps = int(knobs.get("steps", self.sampling.steps))
        sampling = replace(self.sampling, steps=steps, eta=knobs.get("eta", self.sampling.eta))
        return type(self)((self.unet, self.autoencoder, self.scheduler), sampling).train(self.training)

    def save_folder(self, key: str, folder: Path) -> None:
        """See :meth:`Method.save_folder`."""
        save((self.unet, self.autoencoder, self.scheduler), folder)

    def _decoded(self, latent: Tensor, area: Tiles) -> Tensor:
        scale = self.facts.state[1]
        image = area.blend(
            area.blank(self.facts.channels, scale),
            lambda windows: decoded(self.autoencoder, area.cut(latent, windows)),
            scale,
        )

        def pixels(band: Tile) -> Tensor:
            # An infinite value stays visible as such after the clamp. Asking for it here would make a GPU wait.
            values = area.cut(image, [band], scale)
            return (values.masked_fill(values.isinf(), torch.nan).clamp(-1, 1) + 1) / 2

        return area.in_bands(image, pixels, scale)
