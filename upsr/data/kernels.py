"""The three blur kernels of a training sample, drawn in the data workers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import upsr.compat  # noqa: F401  (makes basicsr importable)
from upsr.config.schema_data import BlurOptions, DegradationOptions, FinalOptions
from upsr.rng import scoped_global_rng

_SMALL_SINC = 13
"""Sinc kernels below this size keep more of the low frequencies: their cut-off starts at pi/3 instead of pi/5."""


@dataclass(frozen=True)
class Kernels:
    """float32 kernels that sum to 1: of the first and second blur and the final sinc filter, (k, k) each."""

    kernel1: Tensor
    kernel2: Tensor
    sinc_kernel: Tensor


def sample_kernels(options: DegradationOptions, *keys: int | str) -> Kernels:
    """The kernels of the sample that ``keys`` identify."""
    with scoped_global_rng(*keys, "kernels"):  # basicsr draws from the global generators
        return Kernels(
            _blur_kernel(options.first.blur), _blur_kernel(options.second.blur), _final_kernel(options.final)
        )


def _blur_kernel(options: BlurOptions) -> Tensor:
    from basicsr.data.degradations import circular_lowpass_kernel, random_mixed_kernels

    size = random.choice(options.kernel_sizes)
    if np.random.uniform() < options.sinc_prob:
        kernel = circular_lowpass_kernel(_cutoff(math.pi / 3 if size < _SMALL_SINC else math.pi / 5), size)
    else:
        kernel = random_mixed_kernels(
            options.kernel_list,
            options.kernel_prob,
            size,
            options.blur_sigma,
            options.blur_sigma,
            (-math.pi, math.pi),
            options.betag_range,
            options.betap_range,
            noise_range=None,
        )
    return _padded(kernel, options.support)


def _final_kernel(options: FinalOptions) -> Tensor:
    from basicsr.data.degradations import circular_lowpass_kernel

    if np.random.uniform() < options.sinc_prob:
        size = random.choice(options.kernel_sizes)
        return _padded(circular_lowpass_kernel(_cutoff(math.pi / 3), size), options.support)
    return _padded(np.ones((1, 1)), options.support)


def _cutoff(low: float) -> float:
    return float(np.random.uniform(low, math.pi))


def _padded(kernel: np.ndarray, support: int) -> Tensor:
    margin = (support - kernel.shape[0]) // 2
    return torch.from_numpy(np.pad(kernel, margin).astype(np.float32))
