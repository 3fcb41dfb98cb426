"""Numbers of an evaluation as text: digits, arrows and names of metrics, means with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DIGITS = {
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
_OTHER_DIGITS = 4

ARROWS = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
"""The better direction, by ``higher_is_better``."""

_BACKBONES = {"lpips": "AlexNet", "lpips-vgg": "VGG"}
"""Backbones of pyiqa's forms of LPIPS, which their names in protocols leave out."""


def digits_of(metric: str) -> int:
    """Digits after the point that papers give of a metric."""
    return _DIGITS.get(metric, _OTHER_DIGITS)


def head(metric: str, record: Mapping[str, Any]) -> str:
    """A column's head: the metric, the backbone that it does not name itself, the better direction.

    Args:
        record: of the measure, as a summary has it.
    """
    backbone = _BACKBONES.get(str(record.get("metric"))) if record.get("type") == "PyIQA" else None
    return f"{metric}{f' ({backbone})' if backbone else ''} {ARROWS[record['higher_is_better']]}"


@dataclass(frozen=True)
class Means:
    """The means of a dataset by a protocol.

    Attributes:
        heads: of the metrics.
        rows: of the methods: name, and for each metric the text and the value; ``-`` and ``None`` where there is none.
        doubts: why the numbers are not comparable with published ones.
    """

    title: str
    heads: list[str]
    rows: list[tuple[str, list[tuple[str, float | None]]]]
    doubts: list[str]


def tables_of_means(summary: Mapping[str, Any]) -> Iterator[Means]:
    """One for each dataset and protocol that has results."""
    for dataset, facts in summary["datasets"].items():
        for protocol in summary["protocols"]:
            own = [r for r in summary["results"] if (r["dataset"], r["protocol"]) == (dataset, protocol)]
            metrics = list(dict.fromkeys(r["metric"] for r in own))
            rows = []
            for method in summary["methods"]:
                found = {r["metric"]: (_cell(r, summary), r["mean"]) for r in own if r["method"] == method}
                if found:
                    rows.append((method, [found.get(metric, ("-", None)) for metric in metrics]))
            if rows:
                heads = [head(m, summary["measures"][f"{protocol}/{m}"]) for m in metrics]
                yield Means(
                    f"{dataset}, {facts['evaluated']} images, protocol {protocol}", heads, rows, facts["doubts"]
                )


def by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    """Missing measures by reason."""
    found: dict[str, list[str]] = {}
    for measure, reason in missing.items():
        found.setdefault(reason, []).append(measure)
    return found


def _cell(result: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """A mean, the half width of its interval, and of how many images it is if not of all."""
    digits = digits_of(result["metric"])
    text = f"{result['mean']:.{digits}f}"
    if result["low"] is not None:
        text += f" \N{PLUS-MINUS SIGN} {(result['high'] - result['low']) / 2:.{digits}f}"
    of_set = result["metric"] in summary["protocols"][result["protocol"]]["set_metrics"]
    expected = 1 if of_set else summary["datasets"][result["dataset"]]["evaluated"]
    return text if result["images"] == expected else f"{text} ({result['images']} of {expected})"
