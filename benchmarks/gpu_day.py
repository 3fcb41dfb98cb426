"""Everything that needs a GPU, in one command for a bare machine without a network: tests, parity, times, memory, a training run.

examples:
  python benchmarks/gpu_wheels.py --present pip_list.txt --download wheels   # before: what the machine lacks
  python benchmarks/gpu_day.py --out results                       # as many stages as fit into 9 minutes
  python benchmarks/gpu_day.py --out more --previous results       # those that are left
  python benchmarks/gpu_day.py --out results --only golden tiled   # some of them
  python benchmarks/gpu_day.py --rehearse --out rehearsal          # all of it on a CPU with tiny networks

Each stage is a process of its own (gpu_stages.py): a crash costs no other stage. What is finished stands in gpu_day.json and is
not run again; gpu_day.md is for reading. The machine needs torch, torchvision and what gpu_wheels.py lists; upsr need not be
installed. Exit code 1 if a stage has failed, 2 if something is missing; stages that no longer fit are named.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_wheels import missing_modules

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS, SUMMARY = "gpu_day.json", "gpu_day.md"

MINUTES = {
    "tests": 3.0,
    "golden": 2.0,
    "restoration": 5.0,
    "restoration_compiled": 4.0,
    "restoration_graphs": 4.0,
    "restoration_autotuned": 8.0,
    "tiled": 3.0,
    "training": 4.0,
    "training_compiled": 6.0,
    "training_graphs": 5.0,
    "data_wait": 3.0,
    "checkpoints": 2.0,
    "train_tiny": 1.5,
}
"""The stages in their order, and the most minutes that each may take; the last takes what is left, and at least so much."""

REHEARSED = 2.0
"""Minutes of any stage in the rehearsal."""

TAIL = 40
"""Lines of a failed stage's output that are kept."""

GRACE = 45.0
"""Seconds in which a stage that was asked to stop saves its state."""


@dataclass(frozen=True)
class Plan:
    """What the command line chose.

    Attributes:
        out: folder for the results.
        deadline: ``time.monotonic()`` after which no stage runs.
    """

    out: Path
    device: str
    rehearse: bool
    deadline: float

    def minutes_left(self) -> float:
        return (self.deadline - time.monotonic()) / 60

    def minutes_for(self, name: str) -> float:
        """The most that a stage may take."""
        return REHEARSED if self.rehearse else MINUTES[name]


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    sys.path.insert(0, str(REPOSITORY))  # a bare machine has the checkout, and no installed package
    if absent := missing_modules():
        print(
            f"error: {', '.join(absent)} cannot be imported; carry their wheels: python benchmarks/gpu_wheels.py lists them",
            file=sys.stderr,
        )
        return 2
    from upsr.errors import exiting

    return exiting(_run_stages)(given)


def _run_stages(given: argparse.Namespace) -> int:
    device = _device(given.rehearse)
    plan = Plan(given.out, device, given.rehearse, time.monotonic() + 60 * given.minutes)
    return run(plan, given.only or list(MINUTES), _earlier(given.out, given.previous, device, given.rehearse))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--previous", type=Path, help="folder that came back from an earlier call: it is continued")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no stage may still run (9)")
    parser.add_argument("--only", nargs="+", choices=list(MINUTES), metavar="STAGE", help=f"of {', '.join(MINUTES)}")
    parser.add_argument("--rehearse", action="store_true", help="all stages on the CPU, with tiny networks")
    return parser


def _device(rehearse: bool) -> str:
    if rehearse:
        return "cpu"
    from upsr.errors import UpsrError
    from upsr.pipeline.hardware import usable_device

    try:
        return str(usable_device("cuda"))
    except UpsrError as error:
        reason = str(error).rpartition(";")[0]
        raise UpsrError(f"{reason}; run it on a machine with a GPU, or give --rehearse") from None


def _earlier(out: Path, previous: Path | None, device: str, rehearse: bool) -> dict[str, Any]:
    """Results so far: of the folder itself, else of the earlier one, whose other files are taken along."""
    import torch

    from upsr.atomic import writable_folder
    from upsr.errors import UpsrError
    from upsr.provenance import machine, versions

    writable_folder(out)
    fresh = {"rehearsal": rehearse, "machine": machine(torch.device(device)), "versions": versions(), "stages": {}}
    folder = next((folder for folder in (out, previous) if folder and (folder / RESULTS).is_file()), None)
    if folder is None:
        return fresh
    path = folder / RESULTS
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        other = earlier["rehearsal"] != rehearse
        kept = {name: stage for name, stage in earlier["stages"].items() if name in MINUTES and stage["state"]}
    except (ValueError, KeyError, TypeError):
        raise UpsrError(f"{path}: no results of gpu_day.py; name another folder") from None
    if other:
        raise UpsrError(f"{path}: a rehearsal and a real run do not go into one folder; name another")
    if folder != out:
        for file in folder.glob("state.tar.*"):
            (out / file.name).write_bytes(file.read_bytes())
    return {**fresh, "stages": kept}


def run(plan: Plan, names: Sequence[str], results: dict[str, Any]) -> int:
    """Run the stages that are not finished, those that have failed before last.

    Returns:
        1 if one of ``names`` has failed, else 0.
    """
    stages = results["stages"]

    def is_(state: str, name: str) -> bool:
        return stages.get(name, {}).get("state") == state

    failed_before = [name for name in names if is_("failed", name)]
    for name in [*(name for name in names if name not in failed_before), *failed_before]:
        if is_("done", name):
            print(f"{name}: finished before", file=sys.stderr)
        elif plan.minutes_for(name) <= plan.minutes_left():
            print(f"{name}: running", file=sys.stderr)
            stages[name] = _ran(name, plan)
            print(f"{name}: {stages[name]['state']} in {stages[name]['seconds']:.0f} s", file=sys.stderr)
        write(plan.out, results)
    write(plan.out, results)
    remaining = [name for name in names if not is_("done", name) and not is_("failed", name)]
    if remaining:
        print(f"left for another call, with --previous: {', '.join(remaining)}")
    failed = [name for name in names if is_("failed", name)]
    if failed:
        print(f"failed: {', '.join(failed)}; see {plan.out / SUMMARY}", file=sys.stderr)
    return 1 if failed else 0


def _ran(name: str, plan: Plan) -> dict[str, Any]:
    """What became of a stage: done, failed, or stopped with its state saved."""
    limit = 60 * (plan.minutes_left() if name == "train_tiny" else plan.minutes_for(name))
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu_stages.py"), name, "--device", plan.device]
        command += ["--result", str(result), "--out", str(plan.out.resolve()), "--seconds", f"{limit - GRACE:.0f}"]
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*command, *(["--rehearse"] if plan.rehearse else [])],
                cwd=REPOSITORY,
                env=_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = _waited(process, limit)
        stage: dict[str, Any] = {"state": "done", "seconds": time.monotonic() - began}
        if result.is_file():
            stage |= json.loads(result.read_text(encoding="utf-8"))
        if code != 0 or not result.is_file():
            ended = f"stopped after {limit:.0f} s" if code is None else f"exit code {code}"
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
            stage |= {"state": "failed", "ended": ended, "output": lines}
        return stage


def _waited(process: subprocess.Popen[bytes], limit: float) -> int | None:
    """The exit code; ``None`` for a process that took too long and was ended with all that it had started."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment() -> dict[str, str]:
    paths = [str(REPOSITORY), str(REPOSITORY / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def write(out: Path, results: dict[str, Any]) -> None:
    """The results so far, as JSON and for reading."""
    from upsr.atomic import atomic_write

    with atomic_write(out / RESULTS) as path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with atomic_write(out / SUMMARY) as path:
        path.write_text(markdown(results), encoding="utf-8")


def markdown(results: dict[str, Any]) -> str:
    """The results for reading."""
    facts = {**results["machine"], **{name: results["versions"][name] for name in ("torch", "python")}}
    lines = ["# A day with a GPU", "", ", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    if results["rehearsal"]:
        lines += ["**A rehearsal on a CPU with tiny networks: no number here says anything about speed.**", ""]
    lines += ["| stage | state | seconds |", "|---|---|---:|"]
    for name in MINUTES:
        stage = results["stages"].get(name, {"state": "not run"})
        lines.append(f"| {name} | {stage['state']} | {_seconds(stage)} |")
    for name, stage in results["stages"].items():
        lines += ["", f"## {name}", ""]
        if only := stage.get("only_on_cuda"):
            lines += [f"Could not be rehearsed: {only}.", ""]
        lines.append(stage.get("markdown", ""))
        if stage["state"] == "failed":
            lines += ["", f"Failed ({stage['ended']}):", "", "```", *stage["output"], "```"]
    return "\n".join(lines) + "\n"


def _seconds(stage: dict[str, Any]) -> str:
    return f"{stage['seconds']:.0f}" if "seconds" in stage else "-"


if __name__ == "__main__":
    sys.exit(main())
