"""Diffusion processes and their sampling: functions and small objects over tensors. Imports torch alone."""

from upsr.diffusion.residual_shift import Between, Posterior, ResidualShift
from upsr.diffusion.sampling import sample
from upsr.diffusion.schedule import exponential_sqrt_etas, respace
from upsr.diffusion.variance_preserving import VariancePreserving, alphas_cumprod, schedule_betas, timesteps_from

__all__ = [
    "Between",
    "Posterior",
    "ResidualShift",
    "VariancePreserving",
    "alphas_cumprod",
    "exponential_sqrt_etas",
    "respace",
    "sample",
    "schedule_betas",
    "timesteps_from",
]
