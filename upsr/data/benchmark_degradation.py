"""The degradation that ResShift made ImageNet-Test with, as a function of a seed and an image's name.

Made for test sets: everything is computed in float64 on the CPU and rounded to 8 bit, and JPEG is libjpeg's integer
arithmetic, so that the same seed gives the same bytes on every machine. The training degradation
(:mod:`upsr.data.degradation`) gives up this for speed.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate

from upsr.config.schema_data import BlurOptions, DegradationOptions, FinalOptions, SecondStageOptions, StageOptions
from upsr.data.kernels import draw_kernels, render_kernels
from upsr.rng import numpy_generator

_MODES = ("area", "bilinear", "bicubic")

Pixels = NDArray[np.float64]

IMAGENET_TEST = DegradationOptions(
    first=StageOptions(
        blur=BlurOptions(
            kernel_sizes=[3, 5, 7, 9, 11],
            support=13,
            kernel_list=["iso", "aniso"],
            kernel_prob=[0.6, 0.4],
            sinc_prob=0.1,
            blur_sigma=(0.2, 0.8),
        ),
        resize_prob=(0.2, 0.7, 0.1),
        resize_range=(0.5, 1.5),
        noise_range=(1, 15),
        poisson_scale_range=(0.05, 0.3),
        jpeg_range=(70, 95),
    ),
    second=SecondStageOptions(jpeg_range=(80, 100)),
    final=FinalOptions(sinc_prob=0.2, kernel_sizes=[3, 5], support=7),
    second_order_prob=0.0,
)
"""ResShift's test degradation: one round, then the last reduction, sinc filter and JPEG; no second blur or noise."""


def degrade(image: NDArray[np.uint8], scale: int, *keys: int | str) -> NDArray[np.uint8]:
    """The LR image of an HR image.

    Args:
        image: (H, W, 3), sides multiples of ``scale``.
        keys: identity of the draws.

    Returns:
        (H/scale, W/scale, 3).
    """
    rng = numpy_generator(*keys, "benchmark degradation")
    options = IMAGENET_TEST
    first, _, final = draw_kernels(options, *keys)
    x = image.astype(np.float64) / 255
    x = _blurred(x, first, options.first.blur.support)
    x = _resized_at_random(x, options.first, rng)
    x = _noisy(x, options.first, rng)
    x = _compressed(x, options.first, rng)
    size = (image.shape[0] // scale, image.shape[1] // scale)
    mode = str(rng.choice(_MODES))
    if rng.uniform() < 0.5:
        x = _compressed(_blurred(_resized(x, size, mode), final, options.final.support), options.second, rng)
    else:
        x = _blurred(_resized(_compressed(x, options.second, rng), size, mode), final, options.final.support)
    return _to_uint8(x)


def _blurred(x: Pixels, description: torch.Tensor, support: int) -> Pixels:
    kernel = render_kernels(description, support).double().numpy()
    return correlate(x, kernel[..., None], mode="mirror")


def _resized_at_random(x: Pixels, stage: StageOptions, rng: np.random.Generator) -> Pixels:
    weights = np.asarray(stage.resize_prob)
    direction = rng.choice(3, p=weights / weights.sum())
    low, high = [(1.0, stage.resize_range[1]), (stage.resize_range[0], 1.0), (1.0, 1.0)][direction]
    factor, mode = rng.uniform(low, high), str(rng.choice(_MODES))
    return _resized(x, (int(x.shape[0] * factor), int(x.shape[1] * factor)), mode)


def _resized(x: Pixels, size: tuple[int, int], mode: str) -> Pixels:
    tensor = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None]
    result = F.interpolate(tensor, size=size, mode=mode, align_corners=None if mode == "area" else False)
    return result[0].numpy().transpose(1, 2, 0)


def _noisy(x: Pixels, stage: StageOptions, rng: np.random.Generator) -> Pixels:
    gray = rng.uniform() < stage.gray_noise_prob
    if rng.uniform() < stage.gaussian_noise_prob:
        sigma = rng.uniform(*stage.noise_range) / 255
        noise = sigma * rng.standard_normal((*x.shape[:2], 1 if gray else x.shape[2]))
    else:
        scale = rng.uniform(*stage.poisson_scale_range)
        source = (x @ np.array([0.299, 0.587, 0.114]))[..., None] if gray else x
        levels = _levels(source)
        photons = 2.0 ** np.ceil(np.log2(max(len(np.unique(levels)), 1)))
        noise = scale * (rng.poisson(levels / 255 * photons) / photons - levels / 255)
    return (x + noise).clip(0, 1)


def _compressed(x: Pixels, stage: StageOptions, rng: np.random.Generator) -> Pixels:
    """JPEG with halved chroma, as OpenCV writes it."""
    low, high = stage.jpeg_range
    buffer = io.BytesIO()
    Image.fromarray(_to_uint8(x)).save(
        buffer, "JPEG", quality=int(rng.integers(int(low), int(high) + 1)), subsampling=2
    )
    with Image.open(buffer) as file:
        return np.asarray(file.convert("RGB"), dtype=np.float64) / 255


def _to_uint8(x: Pixels) -> NDArray[np.uint8]:
    return _levels(x).astype(np.uint8)


def _levels(x: Pixels) -> Pixels:
    """Whole 8-bit levels.

    Means of a few pixels often lie halfway between two levels, but for an error in the last bit that depends on the
    processor; the inner rounding takes it away.
    """
    return np.rint(np.round(x.clip(0, 1) * 255, 6))
