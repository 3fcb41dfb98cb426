"""The variance-preserving diffusion process (DDPM), its usual schedules, and the timesteps that a start at t visits.

x_0 is the image sought, eps standard normal noise, a = alpha-bar_t the cumulative product of 1 - beta:

    x_t = sqrt(a) x_0 + sqrt(1 - a) eps

Every method takes per-sample timesteps ``t`` and ``t_prev`` of shape (B,), int64 in 0..T-1; t_prev = -1 stands for the
clean image (a = 1). All tensors of one call have one shape (B, ...), dtype and device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from upsr.choices import NoiseSchedule, Prediction, VPSampler
from upsr.diffusion.coefficients import Table, like
from upsr.diffusion.sampling import Field, Step


class VariancePreserving:
    """The process of DDPM, of latent diffusion and of everything that is built on their networks.

    Args:
        alphas_cumprod: (T,) alpha-bar_0 > ... > alpha-bar_{T-1}, in (0, 1).
        prediction: quantity that the network gives.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction: Prediction = "epsilon") -> None:
        self.alpha_bar = Table(alphas_cumprod, clean=1.0)
        self.num_timesteps = len(self.alpha_bar)
        self.prediction = prediction

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t given x_0."""
        signal, std = self._rates(t, x_0)
        return signal * x_0 + std * noise

    def x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of x_0 that a network's output means."""
        if self.prediction == "epsilon":
            return self.denoised(output, x_t, t)
        signal, std = self._rates(t, x_t)
        return output if self.prediction == "sample" else signal * x_t - std * output

    def denoised(self, noise: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0, given the noise in x_t."""
        signal, std = self._rates(t, x_t)
        return (x_t - std * noise) / signal

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of the noise in x_t that a network's output means."""
        return output if self.prediction == "epsilon" else self.epsilon(self.x_0(output, x_t, t), x_t, t)

    def epsilon(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that x_0 and x_t imply."""
        signal, std = self._rates(t, x_t)
        return (x_t - signal * x_0) / std

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v = sqrt(a) eps - sqrt(1 - a) x_0."""
        signal, std = self._rates(t, x_0)
        return signal * noise - std * x_0

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The output of a network without error at x_t = q_sample(x_0, t, noise)."""
        if self.prediction == "epsilon":
            return noise
        return x_0 if self.prediction == "sample" else self.velocity(x_0, noise, t)

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor) -> tuple[Tensor, Tensor]:
        """q(x_{t_prev} | x_t, x_0): the mean, of x_t's shape, and the variance, (B,) float64."""
        a, p = self.alpha_bar(t), self.alpha_bar(t_prev)
        mean = like(p.sqrt() * (1 - a / p) / (1 - a), x_t) * x_0 + like((a / p).sqrt() * (1 - p) / (1 - a), x_t) * x_t
        return mean, (1 - p) / (1 - a) * (1 - a / p)

    def posterior_step(self, x_t: Tensor, x_0: Tensor, t: Tensor, t_prev: Tensor, noise: Callable[[], Field]) -> Tensor:
        """x_{t_prev} drawn from :meth:`posterior`, the reverse step of DDPM. No noise at t_prev = -1."""
        mean, variance = self.posterior(x_0, x_t, t, t_prev)
        return mean + like(variance.sqrt(), x_t) * noise()[...]

    def ddim_step(
        self, x_t: Tensor, x_0: Tensor, t: Tensor, t_prev: Tensor, noise: Callable[[], Field], *, eta: float = 0.0
    ) -> Tensor:
        """x_{t_prev} from x_0 and the noise that it implies, a share of which is replaced by new noise.

        The drawn noise has the deviation eta sqrt((1 - p) / (1 - a)) sqrt(1 - a / p), p = alpha-bar at t_prev; with eta = 1
        the step has the distribution of :meth:`posterior_step`, with eta = 0 no noise is drawn.
        """
        a, p = self.alpha_bar(t), self.alpha_bar(t_prev)
        variance = eta**2 * (1 - p) / (1 - a) * (1 - a / p)
        x = like(p.sqrt(), x_t) * x_0 + like((1 - p - variance).sqrt(), x_t) * self.epsilon(x_0, x_t, t)
        return x + like(variance.sqrt(), x_t) * noise()[...] if eta else x

    def reusing_step(self) -> Step:
        """A reverse step that adds the noise of its first call to each estimate, for one restoration (DM-SR, Sec. 4.4)."""
        first: list[Tensor] = []

        def step(x_t: Tensor, x_0: Tensor, t: Tensor, t_prev: Tensor, noise: Callable[[], Field]) -> Tensor:
            if not first:
                first.append(self.epsilon(x_0, x_t, t))
            return self.q_sample(x_0, t_prev, first[0])

        return step

    def step(self, sampler: VPSampler, eta: float = 0.0) -> Step:
        """The reverse step by its name; ``eta`` is that of :meth:`ddim_step`."""
        return self.posterior_step if sampler == "ddpm" else partial(self.ddim_step, eta=eta)

    def index_of(self, alpha_bar: float) -> int:
        """The timestep whose alpha-bar is nearest to ``alpha_bar``."""
        own = self.alpha_bar(torch.arange(self.num_timesteps))
        return int((own - alpha_bar).abs().argmin())

    def _rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a) and sqrt(1 - a)."""
        a = self.alpha_bar(t)
        return like(a.sqrt(), x), like((1 - a).sqrt(), x)


def schedule_betas(
    schedule: NoiseSchedule, steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Tensor:
    """beta_0 .. beta_{T-1} of a schedule, (steps,) float64.

    Args:
        schedule: ``linear``, ``scaled_linear`` (linear in its root) and ``sigmoid`` (over -6..6) lead from ``beta_start`` to
            ``beta_end``. ``squaredcos_cap_v2`` (Nichol and Dhariwal) and ``cosine`` take their betas, at most 0.999, from
            alpha-bar as a function of u = t / T: cos^2(pi/2 (u + 0.008) / 1.008) and cos(pi/2 u).
    """
    if schedule in ("squaredcos_cap_v2", "cosine"):
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        curve = torch.cos(u * math.pi / 2)
        if schedule == "squaredcos_cap_v2":
            curve = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
        return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    if schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64).square()
    if schedule == "sigmoid":
        share = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()
        return beta_start + (beta_end - beta_start) * share
    return torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)


def alphas_cumprod(betas: Tensor) -> Tensor:
    """alpha-bar of betas, (T,) float64."""
    return (1 - betas.double()).cumprod(0)


def timesteps_from(t: int, steps: int | None) -> list[int]:
    """Timesteps from t down to 0, evenly spaced and rounded, halves up.

    Args:
        steps: number of network calls; at most t + 1 of them are distinct. ``None`` for all.
    """
    count = t + 1 if steps is None else min(steps, t + 1)
    if count == 1:
        return [t]
    return [math.floor(t - t * i / (count - 1) + 0.5) for i in range(count)]
