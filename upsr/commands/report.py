"""A folder of HTML to look at an evaluation: sortable tables, photos under a slider, crops where the methods differ most."""

from __future__ import annotations

import argparse
import sys

from upsr.arguments import path
from upsr.evaluation.earlier import changed_since
from upsr.evaluation.results import read_rows
from upsr.report.html import write_report

EXAMPLES = """examples:
  upsr report results/evaluation                   writes results/evaluation/report/index.html
  upsr report results/evaluation --pictures 500    more photos

The folder report/ needs nothing outside itself and no server: open index.html, or send the folder to someone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr report``."""
    parser.add_argument("folder", type=path, help="folder that `upsr evaluate` wrote")
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="photos of each dataset (100)")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    warnings = [
        f"{method} on {dataset}: {reason}; run `upsr evaluate` again"
        for (method, dataset), reason in sorted(changed_since(given.folder, read_rows(given.folder)).items())
    ]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(write_report(given.folder, given.pictures, warnings))
    return 0
