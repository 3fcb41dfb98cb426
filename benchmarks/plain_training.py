"""The training step as it is usually written in this field, to compare with: one image, one kernel, one tensor at a time.

Global random generators, kernels by NumPy in the loader, float images to the device, basicsr's operators as they come, a
pair pool that is shuffled whole, an optimiser and an average that walk over the parameters.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import upsr.compat  # noqa: F401  (makes basicsr importable)
from upsr.config.schema_data import BlurOptions, DegradationOptions, FinalOptions, StageOptions

_MODES = ("area", "bilinear", "bicubic")


def blur_kernel(options: BlurOptions) -> np.ndarray:
    """A (support, support) kernel of the first or second blur."""
    from basicsr.data.degradations import circular_lowpass_kernel, random_mixed_kernels

    size = random.choice(options.kernel_sizes)
    if np.random.uniform() < options.sinc_prob:
        kernel = circular_lowpass_kernel(np.random.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi), size)
    else:
        kernel = random_mixed_kernels(
            options.kernel_list, options.kernel_prob, size, options.blur_sigma, options.blur_sigma,
            (-math.pi, math.pi), options.betag_range, options.betap_range, noise_range=None,
        )  # fmt: skip
    return np.pad(kernel, (options.support - size) // 2)


def final_kernel(options: FinalOptions) -> np.ndarray:
    """A (support, support) kernel of the final sinc filter."""
    from basicsr.data.degradations import circular_lowpass_kernel

    if np.random.uniform() < options.sinc_prob:
        cutoff = np.random.uniform(np.pi / 3, np.pi)
        return circular_lowpass_kernel(cutoff, random.choice(options.kernel_sizes), pad_to=options.support)
    kernel = np.zeros((options.support, options.support))
    kernel[options.support // 2, options.support // 2] = 1
    return kernel


class PlainDegradation:
    """Degrades a batch with one set of decisions."""

    def __init__(self, options: DegradationOptions, scale: int, device: torch.device) -> None:
        from basicsr.utils.diffjpeg import DiffJPEG

        self.options, self.scale = options, scale
        self.jpeg = DiffJPEG(differentiable=False).to(device)

    @torch.no_grad()
    def __call__(self, gt: Tensor, kernel1: Tensor, kernel2: Tensor, sinc_kernel: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] and (B, k, k) kernels to (B, 3, H/scale, W/scale) in [0, 1], 8-bit levels."""
        from basicsr.utils.img_process_util import filter2D

        height, width = gt.shape[-2:]
        first, second = self.options.first, self.options.second
        x = filter2D(gt, kernel1) if np.random.uniform() < first.blur_prob else gt
        x = F.interpolate(x, scale_factor=self._factor(first), mode=random.choice(_MODES))
        x = self._compress(self._noise(x, first), first)
        if np.random.uniform() < self.options.second_order_prob:
            if np.random.uniform() < second.blur_prob:
                x = filter2D(x.contiguous(), kernel2)
            factor = self._factor(second)
            size = (int(height / self.scale * factor), int(width / self.scale * factor))
            x = self._noise(F.interpolate(x, size=size, mode=random.choice(_MODES)), second)
        size = (height // self.scale, width // self.scale)
        if np.random.uniform() < 0.5:
            x = filter2D(F.interpolate(x, size=size, mode=random.choice(_MODES)).contiguous(), sinc_kernel)
            x = self._compress(x, second)
        else:
            x = self._compress(x, second)
            x = filter2D(F.interpolate(x, size=size, mode=random.choice(_MODES)).contiguous(), sinc_kernel)
        return (x * 255).round().clamp(0, 255) / 255

    def _factor(self, stage: StageOptions) -> float:
        direction = random.choices(["up", "down", "keep"], stage.resize_prob)[0]
        low, high = stage.resize_range
        return {"up": np.random.uniform(1, high), "down": np.random.uniform(low, 1), "keep": 1}[direction]

    def _noise(self, x: Tensor, stage: StageOptions) -> Tensor:
        from basicsr.data.degradations import random_add_gaussian_noise_pt, random_add_poisson_noise_pt

        if np.random.uniform() < stage.gaussian_noise_prob:
            return random_add_gaussian_noise_pt(
                x, sigma_range=stage.noise_range, clip=True, rounds=False, gray_prob=stage.gray_noise_prob
            )
        return random_add_poisson_noise_pt(
            x, scale_range=stage.poisson_scale_range, gray_prob=stage.gray_noise_prob, clip=True, rounds=False
        )

    def _compress(self, x: Tensor, stage: StageOptions) -> Tensor:
        quality = x.new_zeros(x.size(0)).uniform_(*stage.jpeg_range)
        return self.jpeg(x.clamp(0, 1), quality=quality)


class PlainPool:
    """A pool of pairs that is shuffled at every step."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lq: Tensor | None = None
        self.gt: Tensor | None = None
        self.filled = 0

    def exchange(self, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Trade a batch for another."""
        count = len(lq)
        if self.lq is None or self.gt is None:
            self.lq, self.gt = lq.new_zeros(self.size, *lq.shape[1:]), gt.new_zeros(self.size, *gt.shape[1:])
        if self.filled < self.size:
            self.lq[self.filled : self.filled + count], self.gt[self.filled : self.filled + count] = lq, gt
            self.filled += count
            return lq, gt
        order = torch.randperm(self.size)
        self.lq, self.gt = self.lq[order], self.gt[order]
        traded = self.lq[:count].clone(), self.gt[:count].clone()
        self.lq[:count], self.gt[:count] = lq, gt
        return traded


class PlainAverage:
    """An exponential moving average, a parameter at a time."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow the network."""
        for name, parameter in network.named_parameters():
            self.values[name].mul_(self.decay).add_(parameter, alpha=1 - self.decay)
