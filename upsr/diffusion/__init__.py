"""Diffusion processes and their sampling: functions and small objects over tensors. Imports torch alone."""

from upsr.diffusion.residual_shift import Between, Posterior, ResidualShift
from upsr.diffusion.sampling import sample
from upsr.diffusion.schedule import exponential_sqrt_etas, respace

__all__ = ["Between", "Posterior", "ResidualShift", "exponential_sqrt_etas", "respace", "sample"]
