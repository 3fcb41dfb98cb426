"""Means of an evaluation as text, for the console and the HTML report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from upsr.report.numbers import DIGITS, NO_DIGITS, head


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
    digits = DIGITS.get(result["metric"], NO_DIGITS)
    text = f"{result['mean']:.{digits}f}"
    if result["low"] is not None:
        text += f" \N{PLUS-MINUS SIGN} {(result['high'] - result['low']) / 2:.{digits}f}"
    of_set = result["metric"] in summary["protocols"][result["protocol"]]["set_metrics"]
    expected = 1 if of_set else summary["datasets"][result["dataset"]]["evaluated"]
    return text if result["images"] == expected else f"{text} ({result['images']} of {expected})"
