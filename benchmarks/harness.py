"""One way to measure: ours and plain, alternating in one process, medians, the ratio of each turn, the machine's limits."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from limits import Limits, Traffic
from tqdm import tqdm

from upsr.atomic import atomic_write
from upsr.devices import peak_gib, reset_peak, synchronise
from upsr.provenance import machine, versions
from upsr.timing import timed

Run = Callable[[], Any]

_COLUMNS = (
    "what", "ours, s", "plain, s", "plain / ours (lowest to highest)", "limit, s", "share of it", "largest difference",
    "first call, s",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        name: what, and how large.
        ours: this project's form.
        plain: the usual form; ``None`` where there is nothing to compare with.
        dtype: that most of the arithmetic of ``ours`` is in, for the limit.
        traffic: of the plain form, if it is a network's.
        same: both give the same numbers up to rounding.
    """

    name: str
    ours: Run
    plain: Run | None = None
    dtype: torch.dtype = torch.float32
    traffic: Traffic | None = None
    same: bool = True


@dataclass
class Row:
    """What was measured of a case.

    Attributes:
        ours, plain: seconds of each turn.
        first: seconds of the first call of ours, in which weights are packed or compiled.
        limit: seconds that the machine's arithmetic and memory need at least for the plain form's operations.
        difference: largest difference between the two results, where they are tensors.
    """

    name: str
    ours: list[float]
    plain: list[float] = field(default_factory=list)
    limit: float | None = None
    gflop: float | None = None
    difference: float | None = None
    first: float | None = None
    ours_gib: float | None = None
    plain_gib: float | None = None

    @property
    def seconds(self) -> float:
        """Median of ours."""
        return statistics.median(self.ours)

    @property
    def ratios(self) -> list[float]:
        """plain / ours, turn by turn: what disturbs the machine disturbs both of a turn."""
        return [plain / ours for ours, plain in zip(self.ours, self.plain, strict=False)]


@dataclass
class Report:
    """All rows of a run, with what they depend on."""

    machine: dict[str, Any]
    versions: dict[str, str]
    limits: dict[str, float]
    rows: list[Row] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """What JSON can hold, for check.py."""
        content = asdict(self)
        for row, entry in zip(self.rows, content["rows"], strict=True):
            entry |= {"median": row.seconds, "ratio": statistics.median(row.ratios) if row.plain else None}
        return content

    def write(self, path: Path) -> None:
        """:meth:`content` as a file."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.content(), indent=2) + "\n", encoding="utf-8")

    def markdown(self) -> str:
        """As a table."""
        limits = ", ".join(f"{name} {value:.4g}" for name, value in self.limits.items())
        facts = {**self.machine, "torch": self.versions["torch"], "python": self.versions["python"]}
        lines = [
            ", ".join(f"{name} {value}" for name, value in facts.items()),
            f"measured limits: {limits}",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            "|---|" + "---:|" * (len(_COLUMNS) - 1),
        ]
        return "\n".join([*lines, *(_line(row) for row in self.rows)])


def _line(row: Row) -> str:
    plain, ratio, difference = "-", "-", "-"
    if row.plain:
        ratios = row.ratios
        plain = f"{statistics.median(row.plain):.4f}"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    if row.difference is not None:
        difference = f"{row.difference:.1e}"
    limit, share = ("-", "-") if row.limit is None else (f"{row.limit:.4f}", f"{row.limit / row.seconds:.0%}")
    memory = "" if row.ours_gib is None else f", {row.ours_gib:.2f} GiB" + _of(row.plain_gib)
    return f"| {row.name}{memory} | {row.seconds:.4f} | {plain} | {ratio} | {limit} | {share} | {difference} | {row.first:.2f} |"


def _of(plain_gib: float | None) -> str:
    return "" if plain_gib is None else f" (plain {plain_gib:.2f})"


def measure(cases: Iterable[Case], limits: Limits, rounds: int, warmup: int) -> Report:
    """Measure cases one after the other; those of a generator are built when their turn comes."""
    device = limits.device
    report = Report(machine(device), versions(), limits.measured())
    for case in tqdm(cases, file=sys.stderr, unit="case", disable=None):
        report.rows.append(_measured(case, limits, rounds, warmup))
        print(_line(report.rows[-1]), file=sys.stderr)
        gc.collect()
    return report


def _measured(case: Case, limits: Limits, rounds: int, warmup: int) -> Row:
    device, row = limits.device, Row(case.name, [])
    results, peaks = [], []
    for run in (case.ours, case.plain):
        if run is not None:
            reset_peak(device)
            start = time.perf_counter()
            results.append(run())
            synchronise(device)
            row.first = time.perf_counter() - start if row.first is None else row.first
            peaks.append(peak_gib(device))
            for _ in range(warmup - 1):
                run()
    if case.same and len(results) == 2 and all(isinstance(result, torch.Tensor) for result in results):
        row.difference = float((results[0].float() - results[1].float()).abs().max())
    row.ours_gib, row.plain_gib = (*peaks, None)[:2]
    results.clear()
    for _ in range(rounds):
        row.ours += timed(case.ours, device, 1, warmup=0).seconds
        if case.plain is not None:
            row.plain += timed(case.plain, device, 1, warmup=0).seconds
    if case.traffic is not None:
        row.gflop = case.traffic.flop / 1e9
        row.limit = limits.seconds(case.traffic, case.dtype)
    return row
