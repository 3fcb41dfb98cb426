"""The summary of an evaluation on the console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from upsr.report.numbers import ARROWS, DIGITS, NO_DIGITS


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """One table for each dataset and protocol: methods by metrics, with the half width of the 95 % interval."""
    console = console or Console()
    for means in tables_of_means(summary):
        table = Table(title=means.title)
        table.add_column("method")
        for head in means.heads:
            table.add_column(head, justify="right")
        for method, cells in means.rows:
            table.add_row(method, *(text for text, _ in cells))
        console.print(table)
    for item in summary["unavailable"]:
        on = f" on {item['dataset']}" if item["dataset"] else ""
        console.print(f"{item['method']}{on}: {item['status']}: {item['reason']}", style="yellow", markup=False)
    for reason, measures in by_reason(summary["missing_measures"]).items():
        console.print(f"missing: {', '.join(measures)}: {reason}", style="yellow", markup=False)
    for dataset, facts in summary["datasets"].items():
        for doubt in facts["doubts"]:
            console.print(f"{dataset}: {doubt}; not comparable with published numbers", style="yellow", markup=False)


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
                found = {r["metric"]: (cell(r, expected(r, summary)), r["mean"]) for r in own if r["method"] == method}
                if found:
                    rows.append((method, [found.get(metric, ("-", None)) for metric in metrics]))
            if rows:
                heads = [f"{m} {ARROWS[summary['measures'][f'{protocol}/{m}']['higher_is_better']]}" for m in metrics]
                yield Means(
                    f"{dataset}, {facts['evaluated']} images, protocol {protocol}", heads, rows, facts["doubts"]
                )


def expected(result: Mapping[str, Any], summary: Mapping[str, Any]) -> int:
    """Of how many images the mean should be."""
    of_set = result["metric"] in summary["protocols"][result["protocol"]]["set_metrics"]
    return 1 if of_set else summary["datasets"][result["dataset"]]["evaluated"]


def cell(result: Mapping[str, Any], images: int) -> str:
    """A mean, the half width of its interval, and of how many images it is if not of all."""
    digits = DIGITS.get(result["metric"], NO_DIGITS)
    text = f"{result['mean']:.{digits}f}"
    if result["low"] is not None:
        text += f" \N{PLUS-MINUS SIGN} {(result['high'] - result['low']) / 2:.{digits}f}"
    return text if result["images"] == images else f"{text} ({result['images']} of {images})"


def by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    """Measures that are missing, by why."""
    found: dict[str, list[str]] = {}
    for measure, reason in missing.items():
        found.setdefault(reason, []).append(measure)
    return found
