"""The residual-shifting diffusion process with a per-pixel noise weight (paper, Sec. 3.3 and Appendix A).

x_0 is the image sought, y the upsampled LR image, w the weight map, eps standard normal noise:

    x_t = x_0 + eta_t (y - x_0) + kappa sqrt(eta_t) w eps

Every method takes a per-sample timestep ``t`` of shape (B,), int64 in 0..T-1. The previous timestep ``t_prev``
defaults to t - 1; -1 stands for the clean image (eta = 0). All tensors of one call have one shape (B, ...), dtype and
device; the process has no state but its schedule, and no opinion on whether it runs on images or latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upsr.choices import Sampler
from upsr.diffusion.coefficients import Table, like
from upsr.diffusion.sampling import Field

GeneratorLike = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class Posterior:
    """q(x_{t_prev} | x_t, x_0): mean, variance and log-variance, each of x_t's shape."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor


class ResidualShift:
    """The process of UPSR; with weight 1 it is ResShift's.

    Args:
        sqrt_etas: (T,) square roots of eta_0 < ... < eta_{T-1}, see :mod:`upsr.diffusion.schedule`.
        kappa: noise strength.
        noise_power: constant that stands for E[w^2] in the input scaling (released weights: 0.3).
        data_variance: assumed variance of the images in the input scaling (released weights: 0.25).

    Attributes:
        eta: gives eta_t, float64, for timesteps of any shape; eta_{-1} = 0.
    """

    def __init__(
        self, sqrt_etas: Tensor, kappa: float, *, noise_power: float = 0.3, data_variance: float = 0.25
    ) -> None:
        etas = sqrt_etas.double() ** 2
        self.num_timesteps = len(etas)
        self.kappa = kappa
        self.noise_power = noise_power
        self.data_variance = data_variance
        self.eta = Table(etas, clean=0.0)

    def between(self, y: Tensor, weight: Tensor | None = None, *, sampler: Sampler = "ddim") -> Between:
        """The process of a batch whose residuals lead to ``y``, with noise weighted by ``weight``."""
        return Between(self, y, weight, sampler)

    def q_sample(
        self,
        x_0: Tensor,
        y: Tensor,
        t: Tensor,
        *,
        weight: Tensor | None = None,
        noise: Tensor | None = None,
        generator: GeneratorLike | None = None,
    ) -> Tensor:
        """x_t given x_0 and y (marginal of Eq. 7 with the weight of Eq. 15).

        Args:
            noise: eps; drawn from ``generator`` when absent.
            generator: one generator for the batch, or one for each sample (then the draw of a sample does not depend
                on the batch it is in).
        """
        eta = self.eta(t)
        shift, std = like(eta, x_0), like(self.kappa * eta.sqrt(), x_0)
        eps = _noise_like(x_0, noise, generator)
        return x_0 + shift * (y - x_0) + std * _weighted(eps, weight)

    def prior_sample(
        self,
        y: Tensor,
        t: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        noise: Tensor | None = None,
        generator: GeneratorLike | None = None,
    ) -> Tensor:
        """The state that sampling starts from: y + kappa sqrt(eta_t) w eps, by default at t = T - 1.

        The mean is y itself: the (1 - eta_t) share of the unknown x_0 is replaced by y (released code; the paper starts
        from q_sample at T, where eta is almost 1).
        """
        if t is None:
            t = torch.full((len(y),), self.num_timesteps - 1, device=y.device)
        std = like(self.kappa * self.eta(t).sqrt(), y)
        return y + std * _weighted(_noise_like(y, noise, generator), weight)

    def scale_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t divided by its assumed standard deviation sqrt(noise_power kappa^2 eta_t + data_variance)."""
        return x_t / like((self.noise_power * self.kappa**2 * self.eta(t) + self.data_variance).sqrt(), x_t)

    def posterior(
        self, x_0: Tensor, x_t: Tensor, t: Tensor, *, weight: Tensor | None = None, t_prev: Tensor | None = None
    ) -> Posterior:
        """The reverse transition of Eq. 8 (Eq. 2 with the noise weighted by w).

        At t_prev = -1 the variance is 0; the log-variance there is that of t = 1, so that it stays finite. With T = 1 there is
        no such step, and it is log(kappa^2 eta_0), the largest that t = 1 could have. A weight of 0 makes it -inf.
        """
        eta, eta_prev = self.eta(t), self.eta(t - 1 if t_prev is None else t_prev)
        mean = like(eta_prev / eta, x_t) * x_t + like((eta - eta_prev) / eta, x_t) * x_0
        variance = self.kappa**2 * eta_prev * (eta - eta_prev) / eta
        first = self.eta(torch.arange(min(2, self.num_timesteps), device=t.device))
        share = (first[-1] - first[0]) / first[-1] if len(first) > 1 else 1.0
        floor = self.kappa**2 * first[0] * share
        log_variance = torch.where(eta_prev > 0, variance, floor).log()
        if weight is None:
            return Posterior(mean, like(variance, x_t).expand_as(x_t), like(log_variance, x_t).expand_as(x_t))
        return Posterior(mean, like(variance, x_t) * weight**2, like(log_variance, x_t) + 2 * weight.log())

    def posterior_step(
        self,
        x_0: Tensor,
        x_t: Tensor,
        t: Tensor,
        *,
        weight: Tensor | None = None,
        t_prev: Tensor | None = None,
        noise: Tensor | None = None,
        generator: GeneratorLike | None = None,
    ) -> Tensor:
        """x_{t_prev} drawn from :meth:`posterior`: the stochastic reverse step of the paper. No noise at t_prev = -1."""
        posterior = self.posterior(x_0, x_t, t, weight=weight, t_prev=t_prev)
        return posterior.mean + posterior.variance.sqrt() * _noise_like(x_t, noise, generator)

    def ddim_step(self, x_0: Tensor, x_t: Tensor, y: Tensor, t: Tensor, *, t_prev: Tensor | None = None) -> Tensor:
        """x_{t_prev} without noise: the step the released weights were tested with.

        The noise that x_0, y and x_t imply is kept and shrunk by m = sqrt(eta_prev / eta):
        m x_t + (1 - eta_prev - (1 - eta) m) x_0 + (eta_prev - eta m) y. The weight cancels out; it acts through the
        start alone. The last step (t_prev = -1) returns x_0.
        """
        eta, eta_prev = self.eta(t), self.eta(t - 1 if t_prev is None else t_prev)
        m = (eta_prev / eta).sqrt()
        return like(m, x_t) * x_t + like(1 - eta_prev - (1 - eta) * m, x_t) * x_0 + like(eta_prev - eta * m, x_t) * y


@dataclass(frozen=True)
class Between:
    """The residual-shifting process of a batch: all that a state needs besides itself.

    Attributes:
        schedule: eta_t and kappa.
        y: upsampled LR image, the state's shape.
        weight: noise weight of the same shape; ``None`` for isotropic noise.
        sampler: see :data:`Sampler`.
    """

    schedule: ResidualShift
    y: Tensor
    weight: Tensor | None = None
    sampler: Sampler = "ddim"

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """See :meth:`ResidualShift.q_sample`."""
        return self.schedule.q_sample(x_0, self.y, t, weight=self.weight, noise=noise)

    def prior(self, t: Tensor, noise: Tensor) -> Tensor:
        """The state that sampling starts from, see :meth:`ResidualShift.prior_sample`."""
        return self.schedule.prior_sample(self.y, t, weight=self.weight, noise=noise)

    def scaled(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The denoiser's input, see :meth:`ResidualShift.scale_input`."""
        return self.schedule.scale_input(x_t, t)

    def step(self, x_t: Tensor, x_0: Tensor, t: Tensor, t_prev: Tensor, noise: Callable[[], Field]) -> Tensor:
        """One reverse step by the process's sampler."""
        if self.sampler == "ddim":
            return self.schedule.ddim_step(x_0, x_t, self.y, t, t_prev=t_prev)
        return self.schedule.posterior_step(x_0, x_t, t, weight=self.weight, t_prev=t_prev, noise=noise()[...])


def _weighted(eps: Tensor, weight: Tensor | None) -> Tensor:
    return eps if weight is None else weight * eps


def _noise_like(x: Tensor, noise: Tensor | None, generator: GeneratorLike | None) -> Tensor:
    if noise is not None:
        return noise
    if generator is None:
        raise ValueError("give the noise, or the generator to draw it from")
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    if len(generator) != len(x):
        raise ValueError(f"{len(generator)} generators were given for a batch of {len(x)}")
    draws = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in generator]
    return torch.stack(draws).to(x.device)
