"""ResShift (Yue et al., NeurIPS 2023): x_t = x_0 + eta_t (y - x_0) + kappa sqrt(eta_t) eps in the latent of a VQ autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from upsr.accelerate import accelerated
from upsr.archs import ResShiftUNet
from upsr.choices import Sampler, Spacing
from upsr.codecs import Codec
from upsr.config.schema import TileOptions
from upsr.diffusion import ResidualShift, respace, sample
from upsr.diffusion.sampling import Denoise, Noise, Step, repeated
from upsr.errors import UpsrError
from upsr.methods.base import Facts, Knob, Method, Seen, Watch
from upsr.methods.build import build_network, load_weights
from upsr.methods.residual_shift import build_schedule, trained_timesteps, visited_timesteps
from upsr.methods.resshift.files import released_options
from upsr.methods.resshift.options import ResShiftOptions
from upsr.tiling.tiles import TilePlan, Tiles, banded, tiled, whole_plan
from upsr.tiling.windows import Tile


@dataclass(frozen=True)
class Sampling:
    """Settings of a restoration.

    Attributes:
        timesteps: descending.
        sampler: reverse step; the released one draws from the posterior.
        spacing: the timesteps that remain where another number of steps is asked for.
    """

    timesteps: tuple[int, ...]
    sampler: Sampler = "posterior"
    spacing: Spacing = "endpoint"


class ResShift(Method):
    """Diffusion between the latents of the HR image and of the upsampled LR image, denoised under the LR image.

    Args:
        denoiser: called as (x, t, lq).
        codec: frozen autoencoder.
        schedule: eta_t and kappa of the diffusion.
        sampling: settings of a restoration.
        trained: range (low, high) of timesteps that the denoiser knows, high excluded.
    """

    Options = ResShiftOptions
    weight_keys: ClassVar[Mapping[str, str]] = {"denoiser": "pretrain_network_g", "autoencoder": "pretrain_autoencoder"}
    takes = "resshift_realsrx4_*.pth and SinSR_*.pth with --part autoencoder=autoencoder_vq_f4.pth"

    def __init__(
        self,
        denoiser: ResShiftUNet,
        codec: Codec,
        schedule: ResidualShift,
        sampling: Sampling,
        trained: tuple[int, int],
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.codec = codec.requires_grad_(False).eval()
        self.schedule, self.sampling, self.trained = schedule, sampling, trained
        cell = denoiser.cond_factor
        scale = codec.factor // cell
        per_pixel = max(denoiser.values_per_pixel // cell**2, codec.values_per_pixel * scale**2)
        multiple = denoiser.size_multiple * cell
        self.facts = Facts(scale, denoiser.cond_channels, multiple, (codec.channels, codec.factor), per_pixel)

    @classmethod
    def from_options(cls, opt: ResShiftOptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        codec = build_network(opt.autoencoder, "autoencoder", contract=Codec)
        denoiser = build_network(opt.network_g, "network_g", contract=ResShiftUNet)
        _check_fit(denoiser, codec, opt)
        load_weights(denoiser, opt, "network_g", "denoiser", optional=training)
        load_weights(codec, opt, "autoencoder", "autoencoder")
        d = opt.diffusion
        sampling = Sampling(visited_timesteps(d), d.sampler.type, d.sampler.spacing)
        return cls(denoiser, codec, build_schedule(d), sampling, trained_timesteps(d))

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """The authors' models and SinSR's, see :func:`upsr.methods.resshift.files.released_options`."""
        return released_options(path, tensors, beside.get("autoencoder"))

    def train(self, mode: bool = True) -> Self:
        """The autoencoder stays in evaluation mode."""
        super().train(mode)
        self.codec.eval()
        return self

    def parts(self) -> Mapping[str, nn.Module]:
        """Denoiser and autoencoder."""
        return {"denoiser": self.denoiser, "autoencoder": self.codec}

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`; tiles meet at every step, and where the latent is made and decoded.

        ``watch`` sees ``x_T`` and each estimate.
        """
        cell, timesteps = self.denoiser.cond_factor, self.sampling.timesteps
        area = Tiles(
            _in_cells(tiles or whole_plan(lq.device), cell),
            lq[..., ::cell, ::cell],
            self.denoiser.size_multiple,
            passes=2 + len(timesteps),
        )
        channels = self.codec.channels
        y = area.blend(area.blank(channels), lambda w: self.codec.encode(self.upsample(area.cut(lq, w, cell))))

        def step_in(band: Tile) -> Step:
            return self.schedule.between(area.cut(y, [band]), sampler=self.sampling.sampler).step

        def denoise_in(windows: Sequence[Tile]) -> Denoise:
            return self.denoiser_given(2 * area.cut(lq, windows, cell) - 1)

        def show(name: str, state: Tensor) -> None:
            if watch is not None:
                watch(Seen(name, self._decoded(state, area)))

        t = repeated(list(timesteps), len(lq), lq.device)
        first = noise(0)
        x = area.in_bands(
            area.blank(channels),
            lambda band: self.schedule.between(area.cut(y, [band])).prior(t[:, 0], area.cut(first, [band])),
        )
        show("x_T", x)
        denoise = tiled(denoise_in, area)
        x_0 = sample(x, denoise, banded(step_in, area), t, noise, lambda k, x_0: show(f"t={timesteps[k]}", x_0))
        return self._decoded(x_0, area)

    def upsample(self, lq: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] -> (B, C, s*h, s*w) in [-1, 1], bicubic and not clamped."""
        return F.interpolate(2 * lq - 1, scale_factor=self.facts.scale, mode="bicubic", align_corners=False)

    def denoiser_given(self, lq: Tensor) -> Denoise:
        """The denoiser under an LR image in [-1, 1], with the input scaling of the latent."""
        return lambda x, t: self.denoiser(self.schedule.scale_input(x, t), t, lq)

    def replaced(self, name: str, network: nn.Module) -> Self:
        """See :meth:`Method.replaced`."""
        networks: dict[str, Any] = {**self.parts(), name: network}
        method = type(self)(networks["denoiser"], networks["autoencoder"], self.schedule, self.sampling, self.trained)
        return method.train(self.training)

    def for_inference(self, dtype: torch.dtype) -> Self:
        """A denoiser that computes in ``dtype``; the autoencoder stays in float32, as its codes are sensitive to rounding."""
        return self.replaced("denoiser", accelerated(self.denoiser, dtype))

    def knobs(self) -> Mapping[str, Knob]:
        """Steps, where there are several."""
        low, high = self.trained
        if high - low == 1:
            return {}
        return {
            "steps": Knob("network calls", 1, high - low, len(self.sampling.timesteps), True, hint="Fewer: faster.")
        }

    def _adjusted(self, **knobs: Any) -> Self:
        low, high = self.trained
        timesteps = tuple(low + t for t in respace(high - low, int(knobs["steps"]), self.sampling.spacing))
        return self._sharing(sampling=replace(self.sampling, timesteps=timesteps))

    def _decoded(self, z: Tensor, area: Tiles) -> Tensor:
        factor = self.codec.factor

        def pixels(windows: Sequence[Tile]) -> Tensor:
            image = self.codec.decode(area.cut(z, windows))
            # An infinite value stays visible as such after the clamp.
            return (image.masked_fill(image.isinf(), torch.nan).clamp(-1, 1) + 1) / 2

        return area.blend(area.blank(self.facts.channels, factor), pixels, factor)


def _in_cells(plan: TilePlan, cell: int) -> TilePlan:
    """The plan for an image that is ``cell`` times smaller."""
    if plan.tile is None or cell == 1:
        return plan
    size = max(plan.tile.size // cell, 8)
    return replace(plan, tile=TileOptions(size=size, overlap=min(plan.tile.overlap // cell, size // 2)))


def _check_fit(denoiser: ResShiftUNet, codec: Codec, opt: ResShiftOptions) -> None:
    if denoiser.out_channels != codec.channels:
        raise UpsrError(
            f"network_g.in_channels is {denoiser.out_channels}, but the latent of the autoencoder has {codec.channels} channels"
        )
    if codec.factor != opt.scale * denoiser.cond_factor:
        raise UpsrError(
            f"scale: {opt.scale}, but the autoencoder's cells of {codec.factor} pixels under a condition of "
            f"{denoiser.cond_factor} pixels a cell (network_g.lq_size / image_size) make x{codec.factor / denoiser.cond_factor:g}"
        )
