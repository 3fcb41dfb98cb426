"""Digits, arrows and names of metrics, as papers write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DIGITS = {
    "psnr": 2,
    "psnr_rgb": 2,
    "ssim": 4,
    "lpips": 4,
    "lpips_squeeze": 4,
    "dists": 4,
    "clipiqa": 4,
    "musiq": 3,
    "maniqa": 4,
    "niqe": 2,
    "fid": 2,
}
NO_DIGITS = 4
"""Digits of other metrics."""

ARROWS = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
"""The better direction, by ``higher_is_better``."""

_BACKBONES = {"lpips": "AlexNet", "lpips-vgg": "VGG"}
"""Backbones of pyiqa's forms of LPIPS, which their names in protocols leave out."""


def head(metric: str, record: Mapping[str, Any]) -> str:
    """A column's head: the metric, the backbone that it does not name itself, the better direction.

    Args:
        record: of the measure, as a summary has it.
    """
    backbone = _BACKBONES.get(str(record.get("metric"))) if record.get("type") == "PyIQA" else None
    return f"{metric}{f' ({backbone})' if backbone else ''} {ARROWS[record['higher_is_better']]}"
