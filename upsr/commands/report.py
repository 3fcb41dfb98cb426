"""Pages of HTML of an evaluation: tables, photos and crops; and a blind vote on its results, with the scores of the votes."""

from __future__ import annotations

import argparse
import sys

from upsr.arguments import path
from upsr.errors import UpsrError
from upsr.evaluation.earlier import changed_since
from upsr.evaluation.results import read_rows
from upsr.report.html import write_report
from upsr.report.vote_page import write_vote_page
from upsr.report.votes import read_votes, write_scores

EXAMPLES = """examples:
  upsr report results/evaluation                          writes results/evaluation/report/index.html
  upsr report results/evaluation --pictures 500           more photos
  upsr report results/evaluation --vote                   a blind comparison: results/evaluation/vote/index.html
  upsr report results/evaluation --vote --pairs 60 --seed 1 --methods UPSR-tiny RealESRGAN
  upsr report results/evaluation --votes votes-*.json     scores of the votes that the page exported

The folders report/ and vote/ need nothing outside themselves and no server: open index.html, or send the folder to someone.
vote/key.js says whose results the pairs are. A copy without this file shows no scores; its exported votes are read here."""

_PAIRS = 100
_OF_VOTE = ("pairs", "seed", "methods")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr report``."""
    parser.add_argument("folder", type=path, help="folder that `upsr evaluate` wrote")
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="photos of each dataset (100)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--vote", action="store_true", help="write the page of a blind comparison instead")
    either.add_argument(
        "--votes", nargs="+", type=path, metavar="FILE.json", help="print and write scores of exported votes"
    )
    parser.add_argument("--pairs", type=int, metavar="N", help=f"of --vote: pairs at most ({_PAIRS})")
    parser.add_argument("--seed", type=int, metavar="N", help="of --vote: of the order and the sides (0)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="of --vote: methods to compare (all)")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    for name in _OF_VOTE:
        if getattr(given, name) is not None and not given.vote:
            raise UpsrError(f"--{name}: it belongs to --vote")
    if given.votes:
        print(write_scores(given.folder, read_votes(given.folder, given.votes)))
        return 0
    warnings = [
        f"{method} on {dataset}: {reason}; run `upsr evaluate` again"
        for (method, dataset), reason in sorted(changed_since(given.folder, read_rows(given.folder)).items())
    ]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if given.vote:
        pairs = _PAIRS if given.pairs is None else given.pairs
        if pairs < 1:
            raise UpsrError(f"--pairs {pairs}: give 1 or more")
        page, drawn, every = write_vote_page(given.folder, pairs, given.seed or 0, given.methods)
        print(f"{page}: {drawn} of {every} pairs")
        return 0
    print(write_report(given.folder, given.pictures, warnings))
    return 0
