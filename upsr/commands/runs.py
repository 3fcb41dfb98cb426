"""List training runs: progress, state, best validation, and how their options differ."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml

from upsr.arguments import path
from upsr.choices import RUNS_ROOT
from upsr.config.difference import option_differences
from upsr.config.load import RUN_OPTIONS
from upsr.engine.checkpoint import CheckpointStore
from upsr.engine.heartbeat import read_status
from upsr.engine.validation import BEST
from upsr.errors import UpsrError

EXAMPLES = """examples:
  upsr runs
  upsr runs --root experiments --json
  upsr runs --diff 000_UPSR_RealSR_x4 002_UPSR_light_x4

A run is "running" while its status file is written again and again, and "silent" once it has not been for three heartbeats:
it was killed, or its machine is gone. Metrics are those of the validation in which each was best."""

_MISSED_BEATS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr runs``."""
    parser.add_argument("--root", type=path, default=Path(RUNS_ROOT), help=f"folder of runs ({RUNS_ROOT})")
    parser.add_argument("--diff", nargs=2, metavar="RUN", help="the options that differ between two runs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    if given.diff:
        first, second = (_known_options(given.root / name) for name in given.diff)
        print("\n".join(option_differences(first, second)) or "no difference")
        return 0
    folders = sorted(path.parent for path in given.root.glob("*/train.log"))
    if not folders:
        raise UpsrError(f"{given.root}: no training runs in this folder; name another with --root")
    runs = [_describe(folder) for folder in folders]
    print(json.dumps(runs, indent=2) if given.json else _table(runs))
    return 0


def _describe(folder: Path) -> dict[str, Any]:
    status, options = read_status(folder), _read_options(folder)
    checkpoints = CheckpointStore(folder).iterations()
    return {
        "name": folder.name,
        "state": state_of(status),
        "iteration": status.get("iteration", checkpoints[0] if checkpoints else 0),
        "total_iter": options.get("train", {}).get("total_iter"),
        "last_checkpoint": checkpoints[0] if checkpoints else None,
        "best": _best_metrics(folder),
        "message": status.get("message", ""),
    }


def state_of(status: dict[str, Any]) -> str:
    """running, silent, finished, preempted, failed or unknown."""
    state = str(status.get("state", "unknown"))
    if state == "running" and time.time() - status.get("time", 0) > _MISSED_BEATS * status.get("interval", 60):
        return "silent"
    return state


def _read_options(folder: Path) -> dict[str, Any]:
    """The options that a run was started with, defaults included; empty if it never came so far."""
    path = folder / RUN_OPTIONS
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _best_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Best value and its iteration by ``set/metric``."""
    path = folder / BEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _table(runs: list[dict[str, Any]]) -> str:
    """Aligned columns, one run a line."""
    rows = [("run", "state", "iteration", "checkpoint", "best validation")]
    for run in runs:
        best = ", ".join(f"{tag} {best['value']:.4f} @{best['iteration']}" for tag, best in run["best"].items())
        progress = f"{run['iteration']}/{run['total_iter'] or '?'}"
        rows.append((run["name"], run["state"], progress, str(run["last_checkpoint"] or "-"), best or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join([cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)] + [row[4]]) for row in rows
    ]
    notes = [f"{run['name']}: {run['message']}" for run in runs if run["message"]]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _known_options(folder: Path) -> dict[str, Any]:
    """As :func:`_read_options`, of a run that must have some."""
    options = _read_options(folder)
    if not options:
        raise UpsrError(f"{folder / RUN_OPTIONS}: no such file; name a run of this folder")
    return options
