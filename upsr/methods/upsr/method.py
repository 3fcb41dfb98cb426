"""UPSR (paper, Sec. 3): per-pixel uncertainty from a frozen SR network scales the noise of a residual-shifting diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from upsr.accelerate import accelerated
from upsr.archs.contracts import DenoisingNetwork, SRNetwork
from upsr.choices import Sampler, Spacing
from upsr.diffusion import Between, ResidualShift, respace, sample
from upsr.diffusion.sampling import Denoise, Field, Noise, repeated
from upsr.errors import UpsrError
from upsr.methods.base import Facts, Frozen, Knob, Method, Seen, Watch
from upsr.methods.build import autocast_dtype, build_network, load_weights
from upsr.methods.graphs import Exported
from upsr.methods.residual_shift import build_schedule, trained_timesteps, visited_timesteps
from upsr.methods.upsr.codec import PixelUnshuffleCodec
from upsr.methods.upsr.export import graphs, numbers
from upsr.methods.upsr.fidelity import ABOUT_FIDELITY, at_fidelity
from upsr.methods.upsr.files import released_options
from upsr.methods.upsr.options import UPSROptions
from upsr.methods.upsr.uncertainty import UncertaintyWeight
from upsr.tiling.skipping import skipping
from upsr.tiling.tiles import TilePlan, Tiles, banded, tiled, whole_plan
from upsr.tiling.windows import Tile

_MARGIN = 2
"""LR pixels around a window on which its bicubic upsampling depends."""


@dataclass(frozen=True)
class Condition:
    """Everything that depends on the LR image alone.

    Attributes:
        y: bicubic upsampling of the LR image, (B, C, s*h, s*w) in [-1, 1].
        y_hat: g's estimate, the same shape and range, not clamped.
        psi: uncertainty, the same shape.
        weight: noise weight w, the same shape, in [b_u, 1].
        features: the denoiser's second input, (B, n*C*s*s, h, w): g(y) first (if it is used), then y.
    """

    y: Tensor
    y_hat: Tensor
    psi: Tensor
    weight: Tensor
    features: Tensor


@dataclass(frozen=True)
class Sampling:
    """Settings of a restoration.

    Attributes:
        timesteps: descending; without any the result is g(y).
        uncertainty: how much noise each pixel gets.
        sampler: reverse step.
        spacing: the timesteps that remain where another number of steps is asked for.
        skip_below: a tile is left alone once it is expected to change by less, a root mean square over [0, 1]; 0 for never.
        g_share: share of g(y) in the result, in [0, 1].
    """

    timesteps: tuple[int, ...]
    uncertainty: UncertaintyWeight
    sampler: Sampler = "ddim"
    spacing: Spacing = "endpoint"
    skip_below: float = 0.0
    g_share: float = 0.0


class UPSR(Method):
    """Frozen g, uncertainty weight, residual-shifting diffusion and denoiser (paper, Sec. 3.3 and Algorithm 1).

    Args:
        denoiser: called as (x, t, features).
        g: from LR in [0, 1] to SR in about [0, 1].
        schedule: eta_t and kappa of the diffusion.
        sampling: settings of a restoration.
        sr_condition: condition on g(y) beside y.
        residual: the denoiser gives the difference of the image from g(y), or from y without ``sr_condition``.
        trained: range (low, high) of timesteps that the denoiser knows, high excluded.
        g_dtype: type that g computes in during training; ``None`` is float32.
    """

    Options = UPSROptions
    maps = ("uncertainty", "weight")
    weight_keys: ClassVar[Mapping[str, str]] = {"denoiser": "pretrain_network_g", "g": "pretrain_network_aux"}
    takes = "upsr.pth with --part g=atd_real.pth"

    def __init__(
        self,
        denoiser: DenoisingNetwork,
        g: SRNetwork,
        schedule: ResidualShift,
        sampling: Sampling,
        *,
        sr_condition: bool,
        residual: bool = False,
        trained: tuple[int, int],
        g_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.g = Frozen(g, g_dtype)
        self.schedule = schedule
        self.sampling = sampling
        self.sr_condition = sr_condition
        self.residual = residual
        self.trained = trained
        scale, channels = denoiser.scale, denoiser.out_channels
        self.codec = PixelUnshuffleCodec(scale)
        state = (channels * scale**2, scale)
        self.facts = Facts(scale, channels, denoiser.size_multiple, state, denoiser.values_per_pixel)

    @classmethod
    def from_options(cls, opt: UPSROptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        if opt.network_aux is None:
            raise UpsrError("network_aux: UPSR needs the auxiliary network g")
        denoiser = build_network(opt.network_g, "network_g", scale=opt.scale, contract=DenoisingNetwork)
        g = build_network(opt.network_aux, "network_aux", scale=opt.scale, contract=SRNetwork)
        _check_fit(denoiser, g, opt)
        load_weights(denoiser, opt, "network_g", "denoiser", optional=training)
        load_weights(g, opt, "network_aux", "g")
        d = opt.diffusion
        uncertainty = UncertaintyWeight(opt.uncertainty.psi_max, opt.uncertainty.b_u, opt.uncertainty.enabled)
        return cls(
            denoiser,
            g,
            build_schedule(d, sqrt_eta_cap=d.sqrt_eta_cap, noise_power=d.noise_power, data_variance=d.data_variance),
            Sampling(visited_timesteps(d), uncertainty, d.sampler.type, d.sampler.spacing, g_share=d.g_share),
            sr_condition=d.sr_condition,
            residual=d.estimate == "residual",
            trained=trained_timesteps(d),
            g_dtype=autocast_dtype(opt.train.aux_amp) if training and opt.train else None,
        )

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """The authors' model, see :func:`upsr.methods.upsr.files.released_options`."""
        return released_options(path, tensors, beside)

    def parts(self) -> Mapping[str, nn.Module]:
        """Denoiser and g."""
        return {"denoiser": self.denoiser, "g": self.g.network}

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`.

        ``watch`` sees ``g(y)``, the maps ``uncertainty`` (1 is psi_max and more) and ``weight``, ``x_T`` and each estimate.
        """
        sampling = self.sampling
        area = Tiles(tiles or whole_plan(lq.device), lq, self.facts.multiple, passes=1 + len(sampling.timesteps))
        show = self._shower(watch)
        y_hat = area.blend(
            area.blank(self.facts.state[0]), lambda w: self.codec.encode(self.first_estimate(area.cut(lq, w)))
        )
        image = _Image(self, lq, y_hat, area)
        if watch is not None:
            image.show(watch)
        if not sampling.timesteps:
            return self._decoded(y_hat, y_hat, area)
        timesteps = repeated(list(sampling.timesteps), len(lq), lq.device)
        x = image.start(timesteps[:, 0], noise(0))
        show("x_T", x)
        x_0 = sample(
            x,
            image.denoiser(),
            banded(lambda band: image.process([band]).step, area),
            timesteps,
            noise,
            lambda k, x_0: show(f"t={sampling.timesteps[k]}", x_0),
        )
        return self._decoded(x_0, y_hat, area)

    def generate(self, cond: Condition, noise: Noise) -> Tensor:
        """Sample x_0 under a condition, whole images at once: (B, C, s*h, s*w) in about [-1, 1], not clamped."""
        timesteps = repeated(list(self.sampling.timesteps), len(cond.y), cond.y.device)
        process = self.process_of(cond)
        x = process.prior(timesteps[:, 0], noise(0)[...])
        return self.codec.decode(sample(x, self.given(cond).denoiser_of(cond), process.step, timesteps, noise))

    def condition(self, lq: Tensor) -> Condition:
        """Everything that depends on the LR image alone; ``lq`` is (B, C, h, w) in [0, 1]."""
        with torch.no_grad():
            return self.condition_of(self.upsample(lq), self.first_estimate(lq))

    def upsample(self, lq: Tensor) -> Tensor:
        """y: (B, C, h, w) in [0, 1] -> (B, C, s*h, s*w) in [-1, 1], not clamped; a pixel depends on the LR ones within 2."""
        return F.interpolate(2 * lq - 1, scale_factor=self.facts.scale, mode="bicubic", align_corners=False)

    def first_estimate(self, lq: Tensor) -> Tensor:
        """g(y): (B, C, h, w) in [0, 1] -> (B, C, s*h, s*w) in [-1, 1], not clamped."""
        return 2 * self.g(lq) - 1

    def condition_of(self, y: Tensor, y_hat: Tensor) -> Condition:
        """The condition that :meth:`upsample` and :meth:`first_estimate` give, of a whole image or a part of it."""
        uncertainty = self.sampling.uncertainty
        psi = uncertainty.uncertainty(y_hat, y)
        images = [y_hat, y] if self.sr_condition else [y]
        return Condition(y, y_hat, psi, uncertainty.weight(psi), self.codec.encode(torch.cat(images, dim=1)))

    def process_of(self, cond: Condition) -> Between:
        """The diffusion between x_0 and y, in the space of the codec."""
        y, weight = self.codec.encode(cond.y), self.codec.encode(cond.weight)
        return self.schedule.between(y, weight, sampler=self.sampling.sampler)

    def denoiser_of(self, cond: Condition) -> Denoise:
        """The denoiser under a condition, in the space of the codec."""
        return lambda x, t: self.codec.encode(self.estimate(self.schedule.scale_input(x, t), t, cond))

    def given(self, cond: Condition) -> Self:
        """The same method, whose denoiser is called several times under ``cond``."""
        return self._sharing(denoiser=self.denoiser.given(cond.features))

    def estimate(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The denoiser's estimate of x_0, (B, C, s*h, s*w) in about [-1, 1], from the scaled state."""
        output = self.denoiser(x, t, cond.features)
        if not self.residual:
            return output
        return output + (cond.y_hat if self.sr_condition else cond.y)

    def replaced(self, name: str, network: nn.Module) -> Self:
        """See :meth:`Method.replaced`."""
        networks: dict[str, Any] = {**self.parts(), name: network}
        method = type(self)(
            **networks,
            schedule=self.schedule,
            sampling=self.sampling,
            sr_condition=self.sr_condition,
            residual=self.residual,
            trained=self.trained,
            g_dtype=self.g.training_dtype,
        )
        return method.train(self.training)

    def for_inference(self, dtype: torch.dtype) -> Self:
        """A denoiser that computes in ``dtype``; g stays in float32, as its category sort is sensitive to rounding."""
        return self.replaced("denoiser", accelerated(self.denoiser, dtype))

    def exported(self) -> Exported:
        """g, the denoiser and the numbers of the sampler."""
        own = self.sampling
        restoring = {
            **numbers(self.facts, self.schedule, own.uncertainty),
            "timesteps": list(own.timesteps),
            "sampler": own.sampler,
            "sr_condition": self.sr_condition,
            "estimate": "residual" if self.residual else "image",
            "g_share": own.g_share,
        }
        return Exported(graphs(self.g.network, self.denoiser, own.timesteps), restoring)

    @property
    def num_steps(self) -> int:
        """The most steps that a restoration can take."""
        low, high = self.trained
        return high - low

    def knobs(self) -> Mapping[str, Knob]:
        """Steps, fidelity and the bound of skipped tiles."""
        most, own, about_skipping = self.num_steps, self.sampling, "all steps everywhere at 0; 0.004 is one grey level"
        hint = "1: smooth, closest to the photo. 0: more detail, and grain."
        return {
            "steps": Knob("network calls; 0 for g(y) alone", 0, most, len(own.timesteps), True, hint="Fewer: faster."),
            "fidelity": Knob(ABOUT_FIDELITY, 0, 1, 0.5, hint=hint),
            "adaptive": Knob(about_skipping, 0, 1, own.skip_below, advanced=True),
        }

    def faithful(self) -> Self:
        """The result is g(y)."""
        return self.adjusted(steps=0)

    def _adjusted(self, **knobs: Any) -> Self:
        steps, fidelity, adaptive = (knobs.get(name) for name in ("steps", "fidelity", "adaptive"))
        own = self.sampling
        uncertainty, g_share = at_fidelity(own.uncertainty, own.g_share, fidelity)
        calls = len(own.timesteps) if steps is None else int(steps)
        calls = 0 if g_share == 1 else calls  # the result is g(y), whatever the steps
        low, high = self.trained
        timesteps = own.timesteps
        if calls != len(timesteps):
            timesteps = tuple(low + t for t in respace(high - low, calls, own.spacing)) if calls else ()
        skip_below = own.skip_below if adaptive is None else adaptive
        changed = replace(own, timesteps=timesteps, uncertainty=uncertainty, skip_below=skip_below, g_share=g_share)
        return self._sharing(sampling=changed)

    def _decoded(self, x_0: Tensor, y_hat: Tensor, area: Tiles) -> Tensor:
        """The image, with its share of g(y), in [0, 1]."""

        def pixels(band: Tile) -> Tensor:
            image = _clamped(area.cut(x_0, [band]))
            if self.sampling.g_share:
                image = image.lerp(_clamped(area.cut(y_hat, [band])), self.sampling.g_share)
            return (self.codec.decode(image) + 1) / 2

        return area.in_bands(area.blank(self.facts.channels, self.codec.scale), pixels, self.codec.scale)

    def _shower(self, watch: Watch | None) -> Callable[[str, Tensor], None]:
        """Shows states of the diffusion as images."""

        def show(name: str, state: Tensor) -> None:
            if watch is not None:
                watch(Seen(name, (self.codec.decode(state).clamp(-1, 1) + 1) / 2))

        return show


class _Image:
    """The condition of any window of an image, computed where it is needed: it is as large as all states together.

    Args:
        lq: (B, C, h, w) in [0, 1].
        y_hat: g's estimate in the space of the codec.
    """

    def __init__(self, method: UPSR, lq: Tensor, y_hat: Tensor, area: Tiles) -> None:
        self.method, self.lq, self.y_hat, self.area = method, lq, y_hat, area

    def at(self, windows: Sequence[Tile]) -> Condition:
        """The windows' conditions, stacked along the batch."""
        y = torch.cat([self._upsampled(window) for window in windows])
        return self.method.condition_of(y, self.method.codec.decode(self.area.cut(self.y_hat, windows)))

    def process(self, windows: Sequence[Tile]) -> Between:
        """The diffusion in the windows."""
        return self.method.process_of(self.at(windows))

    def start(self, t: Tensor, noise: Field) -> Tensor:
        """The state that sampling starts from."""
        x = self.area.blank(noise.shape[1])
        return self.area.in_bands(x, lambda band: self.process([band]).prior(t, self.area.cut(noise, [band])))

    def denoiser(self) -> Denoise:
        """The denoiser of the whole image."""

        def denoise_in(windows: Sequence[Tile]) -> Denoise:
            cond = self.at(windows)
            # Of several windows the conditions are computed again at each step: all of them would take much memory.
            method = self.method.given(cond) if len(self.area.windows) == 1 else self.method
            return method.denoiser_of(cond)

        bound = self.method.sampling.skip_below
        if not bound:
            return tiled(denoise_in, self.area)
        return skipping(
            denoise_in, self.area, skip_below=bound, start=self.y_hat, uncertainty_in=lambda w: self.at([w]).psi
        )

    def show(self, watch: Watch) -> None:
        """Estimate and maps of the whole image."""
        cond = self.at([Tile(0, self.area.height, 0, self.area.width)])
        psi_max = self.method.sampling.uncertainty.psi_max
        watch(Seen("g(y)", (cond.y_hat.clamp(-1, 1) + 1) / 2))
        watch(Seen("uncertainty", ((2 * cond.psi / psi_max - 1).clamp(-1, 1) + 1) / 2, "map"))
        watch(Seen("weight", ((2 * cond.weight - 1).clamp(-1, 1) + 1) / 2, "map"))

    def _upsampled(self, window: Tile) -> Tensor:
        """y of a window, as it is in the whole image."""
        top, left = max(window.top - _MARGIN, 0), max(window.left - _MARGIN, 0)
        y = self.method.upsample(self.lq[..., top : window.bottom + _MARGIN, left : window.right + _MARGIN])
        inside = Tile(window.top - top, window.bottom - top, window.left - left, window.right - left)
        return y[inside.place(self.method.codec.scale)]


def _clamped(state: Tensor) -> Tensor:
    """The state in [-1, 1]; an infinite value is NaN and stays visible as such. Asking for it here would make a GPU wait."""
    return state.masked_fill(state.isinf(), torch.nan).clamp(-1, 1)


def _check_fit(denoiser: DenoisingNetwork, g: SRNetwork, opt: UPSROptions) -> None:
    channels = denoiser.out_channels
    if g.channels != channels:
        raise UpsrError(f"network_aux: g has {g.channels} image channels, but network_g has {channels}")
    expected = (2 if opt.diffusion.sr_condition else 1) * channels * opt.scale**2
    if denoiser.cond_channels != expected:
        raise UpsrError(
            f"network_g.cond_channels is {denoiser.cond_channels}, but diffusion.sr_condition: "
            f"{str(opt.diffusion.sr_condition).lower()} at x{opt.scale} gives {expected}; make them agree"
        )
