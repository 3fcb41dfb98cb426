"""Stage two: the uncertainty-guided diffusion model of the paper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from upsr.allocator import kept_buffers
from upsr.archs.contracts import DenoisingNetwork, PreparedCondition, SRNetwork
from upsr.compat import MODEL_REGISTRY
from upsr.config.schema import Options
from upsr.diffusion import SAMPLERS, PixelUnshuffleCodec, ResidualShift, exponential_sqrt_etas, respace, sample
from upsr.diffusion.sampling import NoiseSource, Step
from upsr.diffusion.schedule import Spacing
from upsr.errors import UpsrError
from upsr.methods.base import Frozen, Observer, Purpose, RestorationModel
from upsr.methods.build import Losses, autocast_dtype, build_losses, build_network, load_or_refuse
from upsr.methods.upsr.uncertainty import UncertaintyWeight


@dataclass(frozen=True)
class Condition:
    """What a batch of LR images gives to the diffusion.

    Attributes:
        y: bicubic upsampling, (B, C, s*h, s*w) in [-1, 1], not clamped.
        y_hat: g's estimate, the same shape and range, not clamped.
        psi: uncertainty, the same shape.
        weight: noise weight w, the same shape, in [b_u, 1].
        features: what the denoiser sees beside the state, (B, n*C*s*s, h, w): g(y) first (if it is used), then y; or what
            the denoiser has prepared of it.
    """

    y: Tensor
    y_hat: Tensor
    psi: Tensor
    weight: Tensor
    features: Tensor | PreparedCondition


@MODEL_REGISTRY.register()
class UPSRModel(RestorationModel):
    """Frozen g, uncertainty weight, residual-shifting diffusion and denoiser (paper, Sec. 3.3 and Algorithm 1).

    Args:
        network_g: denoiser, called as (x, t, features).
        network_aux: g, from LR in [0, 1] to SR in about [0, 1].
        sr_condition: condition on g(y) beside y.
        residual: the denoiser gives the difference of the image from g(y), or from y without ``sr_condition``.
        timesteps: steps a restoration visits, descending; without any it is g(y).
        spacing: which steps :meth:`under` keeps where it is asked for another number of them.
        step: reverse step, one of :data:`upsr.diffusion.SAMPLERS`.
        train_timesteps: range (low, high) that training draws t from, high excluded.
        losses: needed for training only.
        aux_dtype: type that g computes in during training; ``None`` is float32.
    """

    network_g: DenoisingNetwork
    draws = True

    def __init__(
        self,
        network_g: DenoisingNetwork,
        network_aux: SRNetwork,
        process: ResidualShift,
        uncertainty: UncertaintyWeight,
        *,
        scale: int,
        channels: int,
        sr_condition: bool,
        residual: bool = False,
        timesteps: Sequence[int],
        spacing: Spacing = "endpoint",
        step: Step,
        train_timesteps: tuple[int, int],
        losses: Losses | None = None,
        aux_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network_g = network_g
        self.network_aux = Frozen(network_aux, aux_dtype)
        self.process = process
        self.uncertainty = uncertainty
        self.codec = PixelUnshuffleCodec(scale)
        self.scale = scale
        self.channels = channels
        self.size_multiple = network_g.size_multiple
        self.sr_condition = sr_condition
        self.residual = residual
        self.timesteps = list(timesteps)
        self.spacing = spacing
        self.step = step
        self.train_timesteps = train_timesteps
        self.losses = losses

    @classmethod
    def from_options(cls, opt: Options, purpose: Purpose) -> Self:
        """See :meth:`RestorationModel.from_options`."""
        if opt.network_aux is None:
            raise UpsrError("network_aux: UPSRModel needs the auxiliary network g")
        network_g = build_network(opt.network_g, "network_g", scale=opt.scale, contract=DenoisingNetwork)
        network_aux = build_network(opt.network_aux, "network_aux", scale=opt.scale, contract=SRNetwork)
        channels = network_g.out_channels
        _check_fit(network_g, network_aux, opt)

        path = opt.path
        load_or_refuse(
            network_g,
            path.pretrain_network_g,
            "denoiser",
            key="path.pretrain_network_g",
            param_key=path.param_key_g,
            strict=path.strict_load_g,
            optional=purpose == "train" or path.allow_random_weights,
        )
        if not network_aux.carries_weights:
            load_or_refuse(
                network_aux,
                path.pretrain_network_aux,
                "g",
                key="path.pretrain_network_aux",
                param_key=path.param_key_aux,
                strict=True,
                optional=path.allow_random_weights,
            )

        d = opt.diffusion
        sqrt_etas = exponential_sqrt_etas(
            d.steps,
            kappa=d.kappa,
            power=d.power,
            min_noise_level=d.min_noise_level,
            sqrt_eta_end=d.sqrt_eta_end,
            sqrt_eta_cap=d.sqrt_eta_cap,
        )
        if not bool((sqrt_etas.square().diff() > 0).all()) or float(sqrt_etas[0]) ** 2 == 0:
            raise UpsrError(
                "diffusion: eta does not grow from step to step with these kappa, power, min_noise_level, sqrt_eta_end and "
                "sqrt_eta_cap; begin with the defaults"
            )
        calls = 1 if d.one_step else d.sampler.steps or d.steps
        return cls(
            network_g,
            network_aux,
            ResidualShift(sqrt_etas, d.kappa, noise_power=d.noise_power, data_variance=d.data_variance),
            UncertaintyWeight(opt.uncertainty.psi_max, opt.uncertainty.b_u, opt.uncertainty.enabled),
            scale=opt.scale,
            channels=channels,
            sr_condition=d.sr_condition,
            residual=d.estimate == "residual",
            timesteps=[d.steps - 1] if d.one_step else respace(d.steps, calls, d.sampler.spacing),
            spacing=d.sampler.spacing,
            step=SAMPLERS[d.sampler.type],
            train_timesteps=(d.steps - 1 if d.one_step else 0, d.steps),
            losses=build_losses(opt) if purpose == "train" else None,
            aux_dtype=autocast_dtype(opt.train.aux_amp) if opt.train and purpose == "train" else None,
        )

    @torch.no_grad()
    def condition(self, lq: Tensor) -> Condition:
        """Everything that depends on the LR image alone; ``lq`` is (B, C, h, w) in [0, 1]."""
        return self.condition_of(self.upsample(lq), self.first_estimate(lq))

    def upsample(self, lq: Tensor) -> Tensor:
        """y: (B, C, h, w) in [0, 1] -> (B, C, s*h, s*w) in [-1, 1], not clamped; a pixel depends on the LR ones within 2."""
        return F.interpolate(2 * lq - 1, scale_factor=self.scale, mode="bicubic", align_corners=False)

    def first_estimate(self, lq: Tensor) -> Tensor:
        """g(y): (B, C, h, w) in [0, 1] -> (B, C, s*h, s*w) in [-1, 1], not clamped."""
        return 2 * self.network_aux(lq) - 1

    def condition_of(self, y: Tensor, y_hat: Tensor) -> Condition:
        """The condition that :meth:`upsample` and :meth:`first_estimate` give, of a whole image or a part of it."""
        psi = self.uncertainty.uncertainty(y_hat, y)
        images = [y_hat, y] if self.sr_condition else [y]
        return Condition(y, y_hat, psi, self.uncertainty.weight(psi), self.codec.encode(torch.cat(images, dim=1)))

    def prepared(self, cond: Condition) -> Condition:
        """The same for many estimates, with what the denoiser can compute from it once and for all."""
        return replace(cond, features=self.network_g.prepared(cond.features))

    def forward(self, lq: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """One step of Algorithm 1; see :meth:`RestorationModel.forward`."""
        if self.losses is None:
            raise RuntimeError("the model was built for testing and has no losses")
        cond = self.condition(lq)
        x_0 = 2 * gt - 1
        t = self._draw_timesteps(generators).to(lq.device)
        x_t = self.process.q_sample(x_0, cond.y, t, weight=cond.weight, generator=generators)
        x_in = self.codec.encode(self.process.scale_input(x_t, t))
        prediction = self.estimate(x_in, t, cond)
        return {**self.losses(prediction, x_0, generators), "by_timestep": self._by_timestep(prediction, x_0, t)}

    def estimate(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The denoiser's estimate of x_0, (B, C, s*h, s*w) in about [-1, 1]."""
        output = self.network_g(x, t, cond.features)
        if not self.residual:
            return output
        return output + (cond.y_hat if self.sr_condition else cond.y)

    @torch.no_grad()
    def _by_timestep(self, prediction: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """(2, T): sum of the squared error over the samples at each timestep, and their number."""
        errors = (prediction.float() - x_0).square().mean(dim=(1, 2, 3))
        table = errors.new_zeros(2, self.process.num_timesteps)
        return table.index_add_(1, t, torch.stack([errors, torch.ones_like(errors)]))

    def restore(self, lq: Tensor, noise: NoiseSource, observe: Observer | None = None) -> Tensor:
        """See :meth:`RestorationModel.restore`; the one clamp is at the end.

        Shown are ``g(y)``, ``uncertainty`` (1 is psi_max and more), ``x_T`` and the estimate of each step.
        """
        with kept_buffers(lq[:, 0].numel()):
            return (self.generate(self.condition(lq), noise, observe).clamp(-1, 1) + 1) / 2

    def generate(self, cond: Condition, noise: NoiseSource, observe: Observer | None = None) -> Tensor:
        """Sample x_0 under a condition; noise and observer as for :meth:`restore`.

        Returns:
            (B, C, s*h, s*w) in about [-1, 1], not clamped.
        """
        show = shower(observe, self.codec)
        show("g(y)", cond.y_hat)
        show("uncertainty", 2 * cond.psi / self.uncertainty.psi_max - 1)
        if not self.timesteps:
            return cond.y_hat
        cond = self.prepared(cond)
        x_0 = sample(
            self.process,
            lambda x, t: self.codec.encode(self.estimate(x, t, cond)),
            self.codec.encode(cond.y),
            weight=self.codec.encode(cond.weight),
            noise=noise,
            timesteps=self.timesteps,
            step=self.step,
            on_start=lambda x: show("x_T", x, encoded=True),
            on_estimate=lambda t, x: show(f"t={t}", x, encoded=True),
        )
        return self.codec.decode(x_0)

    @property
    def num_steps(self) -> int:
        """The most steps that a restoration can take."""
        low, high = self.train_timesteps
        return high - low

    def under(self, steps: int, uncertainty: UncertaintyWeight) -> Self:
        """The same networks, sampling otherwise.

        Args:
            steps: network calls, at most :attr:`num_steps`; as many as the model takes are its own, with 0 the restoration
                is g(y).
            uncertainty: how much noise each pixel gets.
        """
        view = copy.copy(self)
        low, high = self.train_timesteps
        if steps != len(self.timesteps):
            view.timesteps = [low + t for t in respace(high - low, steps, self.spacing)] if steps else []
        view.uncertainty = uncertainty
        return view

    def computing_in(self, dtype: torch.dtype) -> Self:
        """The same model for inference, with a denoiser that computes in another type; g stays in float32, where it decides
        which pixels are of a kind."""
        return self if dtype == torch.float32 else self.with_denoiser(self.network_g.lowered(dtype))

    def with_denoiser(self, network_g: DenoisingNetwork) -> Self:
        """The same model but for its denoiser."""
        view = copy.copy(self)
        view._modules = {**self._modules, "network_g": network_g}
        return view

    def _draw_timesteps(self, generators: Sequence[torch.Generator]) -> Tensor:
        low, high = self.train_timesteps
        return torch.cat([torch.randint(low, high, (1,), generator=g, device=g.device) for g in generators])


def shower(observe: Observer | None, codec: PixelUnshuffleCodec) -> Callable[..., None]:
    """Shows images in [-1, 1], if there is anyone to see them."""

    def show(name: str, image: Tensor, encoded: bool = False) -> None:
        if observe is not None:
            observe(name, ((codec.decode(image) if encoded else image).clamp(-1, 1) + 1) / 2)

    return show


def _check_fit(network_g: DenoisingNetwork, network_aux: SRNetwork, opt: Options) -> None:
    channels = network_g.out_channels
    if network_aux.channels != channels:
        raise UpsrError(f"network_aux: g has {network_aux.channels} image channels, but network_g has {channels}")
    expected = (2 if opt.diffusion.sr_condition else 1) * channels * opt.scale**2
    if network_g.cond_channels != expected:
        raise UpsrError(
            f"network_g.cond_channels is {network_g.cond_channels}, but diffusion.sr_condition: "
            f"{str(opt.diffusion.sr_condition).lower()} at x{opt.scale} gives {expected}; make them agree"
        )
