"""The second-order degradation of Real-ESRGAN on a batch, on the device that the batch is on.

Every draw is a function of the step (``keys``) and of a sample's place in the global batch (``slots``), so a batch that is
split over processes or micro-batches is degraded to the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import upsr.compat  # noqa: F401  (makes basicsr importable)
from upsr.config.schema_data import DegradationOptions, StageOptions
from upsr.data.kernels import render_kernels
from upsr.data.noise import coin, gaussian_noise, poisson_noise, uniform
from upsr.errors import UpsrError
from upsr.rng import numpy_generator, torch_generator

_MODES = ("area", "bilinear", "bicubic")
_BEST_QUALITY = 99.9
_JPEG_BLOCK = 16
_USM_REACH = 25
"""Half the side of the unsharp mask's kernel in pixels; images are reflected by so much, and have to be larger."""


@dataclass(frozen=True)
class _Draws:
    """Generators of one group of samples."""

    decisions: np.random.Generator
    samples: list[torch.Generator]
    shared: torch.Generator


class RealESRGANDegradation:
    """Makes LR images of HR crops.

    Args:
        options: probabilities and ranges.
        scale: side of the HR image over that of the LR image.
    """

    def __init__(self, options: DegradationOptions, scale: int) -> None:
        from basicsr.utils.diffjpeg import DiffJPEG
        from basicsr.utils.img_process_util import USMSharp

        self.options = options
        self.scale = scale
        self._jpeg = DiffJPEG(differentiable=False)
        self._usm = USMSharp() if options.usm_gt else None

    @torch.no_grad()
    def ground_truth(self, crops: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1]: what is degraded, and the target. The crops, sharpened where the options say so.

        Raises:
            UpsrError: crops are too small to be sharpened.
        """
        if self._usm is None:
            return crops
        if min(crops.shape[-2:]) <= _USM_REACH:
            raise UpsrError(f"degradation.usm_gt: crops are of {_USM_REACH + 1} pixels or more; give a larger gt_size")
        sharpen = self._usm.to(crops.device)
        # Each image for itself, so that its values depend on no others; filter2D makes views of its input.
        return torch.cat([sharpen(crop[None].contiguous()) for crop in crops])

    @torch.no_grad()
    def __call__(
        self,
        gt: Tensor,
        kernels: Tensor,
        *,
        slots: Sequence[int],
        keys: Sequence[int | str],
    ) -> Tensor:
        """Degrade a batch.

        Args:
            gt: (B, C, H, W) in [0, 1] of :meth:`ground_truth`, sides multiples of the scale.
            kernels: (B, 3, columns), see :func:`upsr.data.kernels.draw_kernels`.
            slots: place of each sample in the global batch, ascending.
            keys: identity of the step.

        Returns:
            (B, C, H/scale, W/scale) in [0, 1], rounded to 8 bit unless the options say otherwise.
        """
        self._jpeg.to(gt.device)
        rendered = self._rendered(kernels.to(gt.device))
        parts = []
        start = 0
        for group, members in groupby(slots, key=lambda slot: slot // self.options.decision_group):
            own = list(members)
            part = slice(start, start + len(own))
            start += len(own)
            draws = _Draws(
                decisions=numpy_generator(*keys, "degradation", group),
                samples=[torch_generator(*keys, "degradation", "slot", slot, device=gt.device) for slot in own],
                shared=torch_generator(*keys, "degradation", "shared", group, device=gt.device),
            )
            kernel1, kernel2, sinc_kernel = (kernel[part] for kernel in rendered)
            parts.append(self._degrade(gt[part], kernel1, kernel2, sinc_kernel, draws))
        return torch.cat(parts)

    def _rendered(self, kernels: Tensor) -> list[Tensor]:
        """(B, k, k) kernels of the first blur, the second and the final filter, each k the support of its own."""
        supports = [self.options.first.blur.support, self.options.second.blur.support, self.options.final.support]
        largest = max(supports)
        margins = [(largest - support) // 2 for support in supports]
        together = render_kernels(kernels, largest)
        return [together[:, i, m : largest - m, m : largest - m] for i, m in enumerate(margins)]

    def _degrade(self, gt: Tensor, kernel1: Tensor, kernel2: Tensor, sinc_kernel: Tensor, draws: _Draws) -> Tensor:
        size = (gt.shape[-2] // self.scale, gt.shape[-1] // self.scale)
        first, second = self.options.first, self.options.second

        x = self._blur_sometimes(gt, kernel1, first, draws)
        factor, mode = self._draw_resize(first, draws)
        if factor * min(x.shape[-2:]) < 1:  # a strong reduction of a small crop
            x = _to_size(x, [max(1, int(side * factor)) for side in x.shape[-2:]], mode)
        elif factor != 1:
            x = F.interpolate(x, scale_factor=factor, mode=mode, align_corners=_align(mode))
        x = self._noise(x, first, draws)
        x = self._compress(x, first, draws)

        if draws.decisions.uniform() < self.options.second_order_prob:
            x = self._blur_sometimes(x, kernel2, second, draws)
            factor, mode = self._draw_resize(second, draws)
            x = _to_size(x, [max(1, int(side * factor)) for side in size], mode)
            x = self._noise(x, second, draws)

        jpeg_last = draws.decisions.uniform() < 0.5
        mode = str(draws.decisions.choice(_MODES))
        if jpeg_last:
            x = _blur(_to_size(x, size, mode), sinc_kernel)
            x = self._compress(x, second, draws)
        else:
            x = self._compress(x, second, draws)
            x = _blur(_to_size(x, size, mode), sinc_kernel)
        return (x * 255).round().clamp(0, 255) / 255 if self.options.round_lq else x.clamp(0, 1)

    def _blur_sometimes(self, x: Tensor, kernel: Tensor, stage: StageOptions, draws: _Draws) -> Tensor:
        return _blur(x, kernel) if draws.decisions.uniform() < stage.blur_prob else x

    def _draw_resize(self, stage: StageOptions, draws: _Draws) -> tuple[float, str]:
        """A resize factor, 1 for "keep", and an interpolation mode."""
        weights = np.asarray(stage.resize_prob)
        direction = draws.decisions.choice(["up", "down", "keep"], p=weights / weights.sum())
        low, high = {"up": (1, stage.resize_range[1]), "down": (stage.resize_range[0], 1), "keep": (1, 1)}[direction]
        return draws.decisions.uniform(low, high), str(draws.decisions.choice(_MODES))

    def _noise(self, x: Tensor, stage: StageOptions, draws: _Draws) -> Tensor:
        if draws.decisions.uniform() < stage.gaussian_noise_prob:
            sigma = uniform(draws.samples, *stage.noise_range)
            gray = coin(draws.samples, stage.gray_noise_prob)
            noise = gaussian_noise(x.shape, sigma, gray, draws.samples, draws.shared)
        else:
            scale = uniform(draws.samples, *stage.poisson_scale_range)
            gray = coin(draws.samples, stage.gray_noise_prob)
            noise = poisson_noise(x, scale, gray, draws.samples)
        return (x + noise).clamp(0, 1)

    def _compress(self, x: Tensor, stage: StageOptions, draws: _Draws) -> Tensor:
        # At 100 basicsr divides by a quantisation step of 0.
        quality = uniform(draws.samples, *stage.jpeg_range).flatten().clamp(max=_BEST_QUALITY)
        height, width = x.shape[-2:]
        below, right = -height % _JPEG_BLOCK, -width % _JPEG_BLOCK
        rgb = F.pad(x.clamp(0, 1).expand(-1, 3, -1, -1), (0, right, 0, below))
        factor = _quantisation_factor(quality)
        encoded = self._jpeg.compress(rgb, factor=factor)
        decoded = self._jpeg.decompress(*encoded, height + below, width + right, factor=factor)
        return decoded[:, : x.shape[1], :height, :width]


def _quantisation_factor(quality: Tensor) -> Tensor:
    """libjpeg's scaling of the quantisation tables, for a batch; basicsr's synchronises with the host for each image."""
    return torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter with reflected borders; a kernel is cut where it is larger than a small image can be reflected."""
    from basicsr.utils.img_process_util import filter2D

    excess = kernel.shape[-1] // 2 - (min(x.shape[-2:]) - 1)
    if excess > 0:
        kernel = kernel[..., excess:-excess, excess:-excess]
        kernel = kernel / kernel.sum(dim=(-2, -1), keepdim=True)
    return filter2D(x.contiguous(), kernel)  # filter2D makes views of its input


def _to_size(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=_align(mode))


def _align(mode: str) -> bool | None:
    """``align_corners`` of a mode; "area" takes none."""
    return None if mode == "area" else False
