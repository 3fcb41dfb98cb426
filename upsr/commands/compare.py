"""Paired statistics of two methods, of one evaluation or of two."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from upsr.arguments import path
from upsr.atomic import atomic_write
from upsr.errors import UpsrError
from upsr.evaluation.earlier import changed_since
from upsr.evaluation.protocols import differences
from upsr.evaluation.results import Row, by_seed, read_rows, read_summary
from upsr.evaluation.statistics import INTERVAL, compare
from upsr.report.console import number_column, plain_table, text_column
from upsr.report.numbers import ARROWS, digits_of

EXAMPLES = """examples:
  upsr compare results/evaluation bicubic UPSR-5                  two methods of one evaluation
  upsr compare results/mine UPSR-5 UPSR-5 --other results/yours   one method in two evaluations
  upsr compare results/evaluation bicubic UPSR-5 --json out.json

Values are paired image by image; several seeds of an image are averaged first. A difference is the second minus the first,
with its 95 % t interval over the images; `wins` is the share of images on which the second is better; p is of Wilcoxon's
signed-rank test.
Numbers that were measured differently (another metric version, colour space, border, rounding), on other files, or of files
that have changed since are refused unless --force."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr compare``."""
    parser.add_argument("folder", type=path, help="folder that `upsr evaluate` wrote")
    parser.add_argument("first", help="method")
    parser.add_argument("second", help="method")
    parser.add_argument("--other", type=path, metavar="FOLDER", help="folder of the second method, if it is another")
    parser.add_argument("--json", type=path, metavar="FILE", help="write the statistics too")
    parser.add_argument(
        "--force", action="store_true", help="compare numbers that were measured differently, with a warning"
    )


def main(given: argparse.Namespace) -> int:
    """Run it."""
    other = given.other or given.folder
    summaries = [read_summary(folder) for folder in (given.folder, other)]
    rows = [
        _of_method(read_rows(folder), method, folder)
        for folder, method in ((given.folder, given.first), (other, given.second))
    ]
    changed = {
        f"{method} on {dataset}: {reason}"
        for folder, of in zip((given.folder, other), rows, strict=True)
        for (method, dataset), reason in changed_since(folder, [row for own in of.values() for row in own]).items()
    }
    if changed and not given.force:
        raise UpsrError(
            f"{'; '.join(sorted(changed))}; run `upsr evaluate` again, or compare the old numbers with --force"
        )
    results = []
    for key in sorted(rows[0].keys() & rows[1].keys()):
        dataset, protocol, metric = key
        records = [summary["measures"][f"{protocol}/{metric}"] for summary in summaries]
        warning = "; ".join(differences(*records) + _other_files(dataset, summaries, [of[key] for of in rows]))
        if warning and not given.force:
            raise UpsrError(
                f"{protocol}/{metric} on {dataset} is not comparable: {warning}; --force compares it all the same"
            )
        found = compare(by_seed(rows[0][key]), by_seed(rows[1][key]))
        higher_is_better = records[0]["higher_is_better"]
        wins = found.wins if higher_is_better else 1 - found.wins
        results.append({"dataset": dataset, "protocol": protocol, "metric": metric, "warning": warning,
                        "higher_is_better": higher_is_better, **asdict(found), "wins": wins})  # fmt: skip
    if not results:
        raise UpsrError(f"{given.first} and {given.second} have no dataset and metric in common")
    _print(given, results)
    if given.json:
        content = {"first": given.first, "second": given.second, "interval": INTERVAL, "results": results}
        with atomic_write(given.json) as path:
            path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


def _of_method(rows: list[Row], method: str, folder: Path) -> dict[tuple[str, str, str], list[Row]]:
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.method == method:
            found.setdefault((row.dataset, row.protocol, row.metric), []).append(row)
    if not found:
        raise UpsrError(f"{folder}: no results of '{method}'; there are {', '.join(sorted({r.method for r in rows}))}")
    return found


def _other_files(dataset: str, summaries: list[dict[str, Any]], rows: list[list[Row]]) -> list[str]:
    """Differences between the LR images and ground truths of both, by the contents of the files."""
    names = {summary["datasets"][dataset]["names_sha256"] for summary in summaries}
    contents = [{row.image: row.content for row in of_method if row.content} for of_method in rows]
    common = contents[0].keys() & contents[1].keys()
    other = sorted(image for image in common if contents[0][image] != contents[1][image])
    if other:
        return [f"the dataset's files differ in {len(other)} of {len(common)} images, '{other[0]}' for one"]
    return [] if len(names) == 1 else ["the dataset has other files"]


def _print(given: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    console = Console()
    for dataset in dict.fromkeys(r["dataset"] for r in results):
        own = [r for r in results if r["dataset"] == dataset]
        table = plain_table(f"{dataset}: {given.second} minus {given.first}, with its 95 % t interval over the images")
        text_column(table, "measure")
        for head in ("images", "difference", "95 % interval", "wins", "p"):
            number_column(table, head)
        for r in own:
            digits = digits_of(r["metric"]) + 1
            span = "-" if r["low"] is None else f"{r['low']:+.{digits}f} .. {r['high']:+.{digits}f}"
            table.add_row(
                f"{r['protocol']}/{r['metric']} {ARROWS[r['higher_is_better']]}",
                str(r["images"]),
                f"{r['difference']:+.{digits}f}",
                span,
                f"{r['wins']:.0%}",
                f"{r['p_value']:.2g}",
            )
        console.print(table)
    for r in results:
        if r["warning"]:
            text = f"warning: {r['protocol']}/{r['metric']} on {r['dataset']}: {r['warning']}"
            console.print(text, style="yellow", markup=False)
