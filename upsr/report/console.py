"""The summary of an evaluation on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from upsr.report.numbers import ARROWS, DIGITS, NO_DIGITS


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """One table for each dataset and protocol: methods by metrics, with the half width of the 95 % interval."""
    console = console or Console()
    results = summary["results"]
    for dataset in summary["datasets"]:
        for protocol in summary["protocols"]:
            own = [r for r in results if r["dataset"] == dataset and r["protocol"] == protocol]
            if not own:
                continue
            metrics = list(dict.fromkeys(r["metric"] for r in own))
            table = Table(title=f"{dataset} ({summary['datasets'][dataset]['evaluated']} images), protocol {protocol}")
            table.add_column("method")
            for metric in metrics:
                higher = summary["measures"][f"{protocol}/{metric}"]["higher_is_better"]
                table.add_column(f"{metric} {ARROWS[higher]}", justify="right")
            for method in summary["methods"]:
                cells = {r["metric"]: cell(r, expected(r, summary)) for r in own if r["method"] == method}
                if cells:
                    table.add_row(method, *(cells.get(metric, "-") for metric in metrics))
            console.print(table)
    for item in summary["unavailable"]:
        on = f" on {item['dataset']}" if item["dataset"] else ""
        console.print(f"{item['method']}{on}: {item['status']}: {item['reason']}", style="yellow", markup=False)
    for reason, measures in by_reason(summary["missing_measures"]).items():
        console.print(f"missing: {', '.join(measures)}: {reason}", style="yellow", markup=False)
    for dataset, facts in summary["datasets"].items():
        for doubt in facts["doubts"]:
            console.print(f"{dataset}: {doubt}; not comparable with published numbers", style="yellow", markup=False)


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
