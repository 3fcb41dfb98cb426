"""The mathematics of UPSR: functions and small objects over tensors. Imports torch alone."""

from upsr.diffusion.codec import PixelUnshuffleCodec
from upsr.diffusion.residual_shift import Posterior, ResidualShift
from upsr.diffusion.sampling import SAMPLERS, sample
from upsr.diffusion.schedule import exponential_sqrt_etas, respace

__all__ = [
    "SAMPLERS",
    "PixelUnshuffleCodec",
    "Posterior",
    "ResidualShift",
    "exponential_sqrt_etas",
    "respace",
    "sample",
]
