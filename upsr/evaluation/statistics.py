"""How sure a mean is, and whether two methods differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from upsr.errors import UpsrError
from upsr.rng import numpy_generator

_RESAMPLES = 10000
_CONFIDENCE = 0.95

BySeed = Mapping[int, Mapping[str, float]]
"""Values by seed and image."""


@dataclass(frozen=True)
class Sample:
    """A metric of a method on a set.

    Attributes:
        images: how many.
        mean: over images and seeds.
        low, high: 95 % bootstrap interval of the mean over the images (percentiles of 10,000 resamples, always the same);
            ``None`` for a single image.
        seeds: mean over the images, by seed.
        seed_sd: standard deviation of these; ``None`` for a single seed.
    """

    images: int
    mean: float
    low: float | None
    high: float | None
    seeds: dict[str, float]
    seed_sd: float | None


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images; a difference is the second minus the first.

    Attributes:
        images: that both have.
        difference: mean.
        low, high: its 95 % bootstrap interval over the images.
        wins: share of the images on which the second has the larger value; ties count half.
        p_value: of Wilcoxon's signed-rank test, two-sided; 1 where the methods do not differ at all.
    """

    images: int
    difference: float
    low: float | None
    high: float | None
    wins: float
    p_value: float


def describe_sample(values: BySeed) -> Sample:
    """Mean, interval and spread over seeds."""
    means = image_means(values)
    low, high = interval(np.array(list(means.values())))
    seeds = {str(seed): math.fsum(images.values()) / len(images) for seed, images in sorted(values.items())}
    spread = float(np.std(list(seeds.values()), ddof=1)) if len(seeds) > 1 else None
    return Sample(len(means), math.fsum(means.values()) / len(means), low, high, seeds, spread)


def compare(first: BySeed, second: BySeed) -> Comparison:
    """Two methods, image by image; several seeds of an image are averaged first.

    Raises:
        UpsrError: they have no image in common.
    """
    one, other = image_means(first), image_means(second)
    common = sorted(one.keys() & other.keys())
    if not common:
        raise UpsrError("the two have no image in common; both must be measured on the same dataset")
    differences = np.array([other[image] - one[image] for image in common])
    low, high = interval(differences)
    p_value = float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0
    wins = float(np.mean(np.where(differences == 0, 0.5, differences > 0)))
    return Comparison(len(common), float(differences.mean()), low, high, wins, p_value)


def image_means(values: BySeed) -> dict[str, float]:
    """The mean over the seeds, by image."""
    images: dict[str, list[float]] = {}
    for by_image in values.values():
        for image, value in by_image.items():
            images.setdefault(image, []).append(value)
    return {image: math.fsum(found) / len(found) for image, found in sorted(images.items())}


def interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Ends of the bootstrap interval of the mean; ``None`` for fewer than two finite values."""
    if len(values) < 2 or not np.all(np.isfinite(values)):
        return None, None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        batch=1000,
        rng=numpy_generator("bootstrap"),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
