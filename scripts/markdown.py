"""Parts of the Markdown tables that scripts write into docs/ from result files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upsr.errors import UpsrError
from upsr.evaluation.statistics import BySeed, Comparison, describe_sample
from upsr.report.numbers import ARROWS


def top(first: str, heads: Sequence[str]) -> tuple[str, str]:
    """The two lines above a table's rows: a column of text, then columns of numbers."""
    return f"| {first} | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"


def heads_of(metrics: Sequence[str], lower_is_better: set[str]) -> list[str]:
    """Names of metrics with the better direction."""
    return [f"{metric} {ARROWS[metric not in lower_is_better]}" for metric in metrics]


def mean_of(values: BySeed, digits: int) -> str:
    """Mean and half the width of its interval."""
    sample = describe_sample(values)
    half = "" if sample.low is None or sample.high is None else f" ± {(sample.high - sample.low) / 2:.{digits}f}"
    return f"{sample.mean:.{digits}f}{half}"


def difference_of(found: Comparison, digits: int) -> str:
    """Mean difference and its interval."""
    text = f"{found.difference:+.{digits}f}"
    return text if found.low is None else f"{text} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def mark_of(found: Comparison, *, higher_is_better: bool) -> str:
    """▲ for better, ▼ for worse, nothing where the interval holds 0."""
    if not found.decided:
        return ""
    return " ▲" if (found.difference > 0) == higher_is_better else " ▼"


def by_seed(values: Mapping[str, Mapping[str, float]]) -> BySeed:
    """Values by image with the seeds as numbers, which are no keys in JSON."""
    return {int(seed): images for seed, images in values.items()}


def read_results(path: Path, actions: str) -> dict[str, Any]:
    """A result file.

    Raises:
        UpsrError: it is not there; ``actions`` make it.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UpsrError(f"{path}: no results; run `{actions}` first") from None


def with_text(path: Path, marks: tuple[str, str], text: str) -> str:
    """A page with ``text`` between the lines of two marks.

    Raises:
        UpsrError: the page or a mark is not there.
    """
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise UpsrError(f"{path} must be there, with the lines '{marks[0]}' and '{marks[1]}' around its tables")
    return f"{before}{begin}\n{text}\n{end}{after}"
