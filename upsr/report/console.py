"""The summary of an evaluation on the console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from upsr.report.numbers import Means, by_reason, tables_of_means

_FRAME = 3
"""Characters that a column adds to its text."""
_NARROWEST = 12


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Tables for each dataset and protocol: methods by metrics, with half the width of the 95 % interval.

    Nothing is cut off: a table that is wider than the console goes on below, with the methods again.
    """
    console = console or Console()
    tables = list(tables_of_means(summary))
    for means in tables:
        for part, columns in enumerate(_parts(means, console.width)):
            table = plain_table(means.title + (" (continued)" if part else ""))
            text_column(table, "method")
            for column in columns:
                number_column(table, means.heads[column])
            for method, cells in means.rows:
                table.add_row(Text(method), *(Text(cells[column][0]) for column in columns))
            console.print(table)
    if any("\N{PLUS-MINUS SIGN}" in text for means in tables for _, cells in means.rows for text, _ in cells):
        console.print("\N{PLUS-MINUS SIGN}: half the width of the 95 % t interval of the mean over the images")
    for item in summary["unavailable"]:
        on = f" on {item['dataset']}" if item["dataset"] else ""
        console.print(f"{item['method']}{on}: {item['status']}: {item['reason']}", style="yellow", markup=False)
    for dataset, messages in summary["unreadable"].items():
        for message in messages:
            console.print(f"{dataset}: left out: {message}", style="yellow", markup=False)
    for reason, measures in by_reason(summary["missing_measures"]).items():
        console.print(f"missing: {', '.join(measures)}: {reason}", style="yellow", markup=False)
    for dataset, facts in summary["datasets"].items():
        for doubt in facts["doubts"]:
            console.print(f"{dataset}: {doubt}; not comparable with published numbers", style="yellow", markup=False)


def plain_table(title: str) -> Table:
    """A table without columns."""
    return Table(title=Text(title))


def text_column(table: Table, head: str) -> None:
    """A column of names; long ones go on in the next line."""
    table.add_column(Text(head), overflow="fold")


def number_column(table: Table, head: str) -> None:
    """A column of numbers, which stay whole while the console has room for any of them."""
    table.add_column(Text(head), justify="right", no_wrap=True, overflow="fold")


def _parts(means: Means, width: int) -> Iterator[Sequence[int]]:
    """The metrics, by place, in as many parts as they need beside the names of the methods."""
    names = min(max(cell_len(method) for method, _ in means.rows), max(_NARROWEST, width // 3)) + _FRAME + 1
    part: list[int] = []
    room = width - names
    for column, head in enumerate(means.heads):
        needed = max(cell_len(text) for text in (head, *(cells[column][0] for _, cells in means.rows))) + _FRAME
        if part and needed > room:
            yield part
            part, room = [], width - names
        part.append(column)
        room -= needed
    yield part
