"""Policies for the noise level t / T that a scale needs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

from upsr.diffusion import VariancePreserving, alphas_cumprod, schedule_betas
from upsr.errors import UpsrError
from upsr.methods.diffsr.options import NoiseLevelOptions

NoiseLevel = Callable[[float], float]
"""t / T for a scale."""

_PER_DOUBLING, _LEAST, _MOST = 0.2, 0.05, 0.65


def by_scale(scale: float) -> float:
    """0.2 log2(scale), within 0.05 to 0.65: the paper's 20 % at x2 and 40 % at x4, interpolated."""
    return min(max(_PER_DOUBLING * math.log2(scale), _LEAST), _MOST)


def noise_level_of(opt: NoiseLevelOptions, process: VariancePreserving) -> NoiseLevel:
    """The policy of the options.

    Args:
        process: of the network.

    Raises:
        UpsrError: the calibration cannot be read, or has no scale.
    """
    if opt.policy == "fixed":
        assert opt.level is not None
        level = opt.level
        return lambda scale: level
    if opt.policy == "target_alpha_bar":
        return lambda scale: process.index_of(_usual_alpha_bar(by_scale(scale))) / process.num_timesteps
    if opt.policy == "prf":
        assert opt.calibration is not None
        return _calibrated(Path(opt.calibration))
    return by_scale


@cache
def _usual_table() -> VariancePreserving:
    return VariancePreserving(alphas_cumprod(schedule_betas("scaled_linear")))


def _usual_alpha_bar(level: float) -> float:
    """alpha-bar at t / T of the paper's schedule, scaled_linear from 1e-4 to 0.02."""
    table = _usual_table()
    return float(table.alpha_bar(torch.tensor([round(level * table.num_timesteps)])))


def _calibrated(path: Path) -> NoiseLevel:
    """t_star of a calibration, between its scales linear in the logarithm of the scale."""
    try:
        scales = json.loads(path.read_text(encoding="utf-8"))["scales"]
        points = sorted((math.log2(float(scale)), float(entry["t_star"])) for scale, entry in scales.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UpsrError(
            f"noise_level.calibration: {path}: no calibration of upsr diffsr calibrate ({error!r})"
        ) from None
    if not points:
        raise UpsrError(f"noise_level.calibration: {path}: it has no scale; run upsr diffsr calibrate to its end")

    def level(scale: float) -> float:
        x = math.log2(scale)
        if not points[0][0] - 1e-9 <= x <= points[-1][0] + 1e-9:
            low, high = (2 ** points[end][0] for end in (0, -1))
            raise UpsrError(f"noise_level.calibration: {path} is for x{low:g} to x{high:g}, not x{scale:g}")
        for (left, first), (right, second) in pairwise(points):
            if x <= right:
                return first + (second - first) * (x - left) / (right - left)
        return points[-1][1]

    return level
