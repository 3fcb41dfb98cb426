"""The summary of an evaluation on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from upsr.report.means import by_reason, tables_of_means


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
