"""Converts samples of any type to 8 or 16 bits where their values have one possible meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-3
"""Excess over [0, 1] that counts as rounding."""

_DIMMEST = 32
"""Fractions up to 255 are taken for 8-bit values if the largest reaches this and the mean is at least a 32nd of the largest.
Images of high dynamic range have few large values over many small ones, and would come out black."""


class UnclearSamplesError(ValueError):
    """Samples whose range is unknown."""


def to_integers(samples: NDArray[Any]) -> NDArray[Any]:
    """Samples as uint8 or uint16.

    Floats in [0, 1] become 16 bits. Whole numbers up to 255 become 8 bits, up to 65535 16 bits, whatever type holds them.
    Fractions up to 255 are 8-bit values with a finer step and become 16 bits.

    Raises:
        UnclearSamplesError: samples are negative, not finite, of high dynamic range, or too large.
    """
    if samples.dtype in (np.uint8, np.uint16):
        return samples
    if samples.dtype == np.bool_:
        return samples.astype(np.uint8) * np.uint8(255)
    if samples.dtype.kind not in "fiu":
        raise UnclearSamplesError(f"samples of type {samples.dtype}")
    low, high = samples.min(), samples.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnclearSamplesError(f"samples of type {samples.dtype} that are not finite")
    fractions = not _are_whole(samples)
    if samples.dtype.kind == "f" and low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return np.rint(samples.clip(0, 1) * 65535.0).astype(np.uint16)
    in_eight_bits = low >= -_ROUNDING * 255 and _DIMMEST <= high <= 255 * (1 + _ROUNDING)
    if fractions and in_eight_bits and samples.mean() * 32 >= high:
        return np.rint(samples.clip(0, 255) * 257.0).astype(np.uint16)
    if not fractions and low >= 0 and high <= 65535:
        return samples.astype(np.uint8 if high <= 255 else np.uint16)
    raise UnclearSamplesError(f"samples of type {samples.dtype} from {low:g} to {high:g}")


def to_eight_bit(frame: NDArray[Any]) -> NDArray[np.uint8]:
    """Rounds uint16 to 8 bits; returns uint8 as it is."""
    return frame if frame.dtype == np.uint8 else np.rint(frame / 257).astype(np.uint8)


def widened(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    """Extends the upper ``bits`` to all 16 by repeating them, so that the largest value becomes 65535."""
    return samples | (samples >> np.uint16(bits)) if 8 <= bits < 16 else samples


def _are_whole(samples: NDArray[Any]) -> bool:
    return samples.dtype.kind != "f" or bool((samples == np.rint(samples)).all())
