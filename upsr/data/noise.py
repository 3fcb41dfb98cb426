"""Gaussian and Poisson noise of Real-ESRGAN, each sample from its own generator.

The values are those of basicsr's functions for the same draws; basicsr's take no generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upsr.devices import draws_poisson
from upsr.rng import stacked


def uniform(generators: Sequence[torch.Generator], low: float, high: float) -> Tensor:
    """(B, 1, 1, 1) draws from U(low, high), one for each sample."""
    return low + (high - low) * stacked("rand", (1, 1, 1), generators)


def coin(generators: Sequence[torch.Generator], probability: float) -> Tensor:
    """(B, 1, 1, 1) of 1 with the given probability, else 0."""
    return (stacked("rand", (1, 1, 1), generators) < probability).float()


def gaussian_noise(
    shape: torch.Size, sigma: Tensor, gray: Tensor, generators: Sequence[torch.Generator], shared: torch.Generator
) -> Tensor:
    """Noise of standard deviation ``sigma`` / 255.

    Args:
        shape: (B, C, H, W).
        sigma, gray: (B, 1, 1, 1); where ``gray`` is 1, all channels get the pattern drawn from ``shared``, which is
            one for the whole group of samples.
    """
    pattern = torch.randn(shape[-2:], generator=shared, device=shared.device)
    colour = stacked("randn", shape[1:], generators)
    return torch.where(gray > 0, pattern, colour) * sigma / 255


def poisson_noise(image: Tensor, scale: Tensor, gray: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Shot noise of an 8-bit sensor times ``scale``; where ``gray`` is 1, that of the grey image in all channels."""
    from torchvision.transforms.functional import rgb_to_grayscale  # a second to import

    luma = rgb_to_grayscale(image) if image.shape[1] == 3 else image
    # Both are drawn for every sample, so that its generator moves on alike whatever the coin showed.
    return torch.where(gray > 0, _shot_noise(luma, generators), _shot_noise(image, generators)) * scale


def _shot_noise(image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    levels = (image * 255).round().clamp(0, 255)
    image = levels / 255
    photons = _next_power_of_two(_distinct(levels)).view(-1, 1, 1, 1)
    rates = image * photons
    counts = torch.stack([_poisson(rate, g) for rate, g in zip(rates, generators, strict=True)])
    return counts / photons - image


def _poisson(rate: Tensor, generator: torch.Generator) -> Tensor:
    if draws_poisson(rate.device):
        return torch.poisson(rate, generator=generator)
    seed = int(torch.randint(1 << 31, (), generator=generator, device=generator.device))
    return torch.poisson(rate.cpu(), generator=torch.Generator().manual_seed(seed)).to(rate.device)


def _distinct(levels: Tensor) -> Tensor:
    """(B,) number of distinct 8-bit levels in each image, without a round trip to the host."""
    present = torch.zeros(len(levels), 256, device=levels.device)
    present.scatter_(1, levels.long().flatten(1), 1.0)
    return present.sum(dim=1)


def _next_power_of_two(count: Tensor) -> Tensor:
    return torch.exp2(torch.log2(count).ceil())
