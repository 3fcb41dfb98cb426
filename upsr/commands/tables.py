"""The tables and figures of a paper, measured here, beside the published values.

Evaluates what is here (weights and datasets), times what can be timed on this machine, and explains every other cell.
What is finished is not done again: run it once more after adding weights or datasets.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from upsr.arguments import add_datasets_root, add_launcher, path
from upsr.atomic import atomic_write, writable_folder
from upsr.engine.distributed import runtime
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS, check
from upsr.evaluation.entries import ENTRIES, MissingWeightsError, WrongWeightsError, make_ready
from upsr.evaluation.plan import Plan, Unavailable
from upsr.evaluation.session import run_evaluation
from upsr.provenance import machine, versions
from upsr.report.cost import CostMeter
from upsr.report.figures import Material
from upsr.report.formats import FORMATS
from upsr.report.panels import FigureUnavailableError
from upsr.report.tables import (
    Evidence,
    Publication,
    Table,
    fill,
    needed,
    publications,
    read_publication,
    what_is_waited_for,
)

EXAMPLES = """examples:
  upsr tables                                    everything that can be had here
  upsr tables --table 4 --datasets-root /data/benchmarks
  upsr tables --paper NAME                       another paper's
  upsr tables --table 2 3 6 7 --repeats 20       parameters, seconds and memory on this machine
  upsr tables --table --figure 2 5 7 --max-images 20
  torchrun --nproc_per_node=4 -m upsr tables --table 4 --batch-size 32

Methods are described in options/methods/ (`upsr evaluate --list`), datasets in datasets/ (`upsr data list`); both say where
to get what. Weights of a method that are not what its description says are flagged, and their numbers not shown."""

Described = TypeVar("Described")

_PAPER = "upsr"
_CPU_REPEATS, _GPU_REPEATS = 3, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr tables``."""
    papers = {name: read_publication(name) for name in publications()}
    parser.add_argument("--paper", choices=list(papers), default=_PAPER, help=f"whose ({_PAPER})")
    for kind, default in (("table", "all"), ("figure", "none")):
        have = "; ".join(f"{name}: {', '.join(getattr(paper, kind + 's'))}" for name, paper in papers.items())
        parser.add_argument(f"--{kind}", nargs="*", metavar="N", help=f"{kind}s ({default}). {have}")
    parser.add_argument("--out", type=path, help="folder (results/tables, of another paper results/tables/PAPER)")
    add_datasets_root(parser)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of methods that draw noise (0)")
    parser.add_argument("--max-images", type=int, help="only the first images of each set, to try it out")
    parser.add_argument("--batch-size", type=int, default=1, help="equally large images restored at once (1)")
    parser.add_argument("--metric-weights", type=path, help="pyiqa's weights, as in torch's hub folder")
    parser.add_argument("--no-cost", action="store_true", help="do not time anything")
    parser.add_argument("--repeats", type=int, help=f"timed runs ({_GPU_REPEATS} on a GPU, {_CPU_REPEATS} on a CPU)")
    parser.add_argument("--cost-batch", type=int, help="images at once when timing (the paper's on a GPU, 1 on a CPU)")
    add_launcher(parser)


def main(given: argparse.Namespace) -> int:
    """Run it."""
    with runtime(given.launcher, "auto") as run:
        _reproduce(given, run)
    return 0


def _reproduce(given: argparse.Namespace, run: Any) -> None:
    """Evaluate, time, and write tables and figures to ``--out``."""
    publication = read_publication(given.paper)
    wanted = _named(publication.tables, given.table, "table", list(publication.tables))
    figures = _named(publication.figures, given.figure, "figure", [])
    given.out = given.out or Path("results/tables") / ("" if given.paper == _PAPER else given.paper)
    writable_folder(given.out)
    pairs = needed(wanted.values())
    no_dataset = _unusable(sorted({name for names in pairs.values() for name in names}), given.datasets_root)
    summary = _evaluated(given, run, publication, pairs, no_dataset)
    if not run.is_main:
        return
    unavailable = _unavailable(pairs, run.device) if summary is None else summary["unavailable"]
    meter = None if given.no_cost else _meter(given, run.device)
    evidence = Evidence(publication.protocol, summary, no_dataset, unavailable, meter)
    tables = [fill(number, description, evidence) for number, description in wanted.items()]
    for table in tables:
        for ending, render in FORMATS.items():
            with atomic_write(given.out / f"table_{table.number}.{ending}") as path:
                path.write_text(render(table), encoding="utf-8")
        _show(table, given.out)
    material = Material(
        given.datasets_root, run.device, max_images=given.max_images, evaluation=given.out / "evaluation"
    )
    for number, figure in figures.items():
        path = given.out / f"figure_{number}.png"
        try:
            module, _, function = figure.draw.partition(":")
            getattr(importlib.import_module(module), function)(path, material, **figure.arguments)
            print(f"Figure {number}: {path}")
        except FigureUnavailableError as error:
            print(f"Figure {number}: missing: {error}")
    if hints := what_is_waited_for(tables):
        print("\n".join(["", *hints]))
    if wanted:
        print(_origin(summary, run.device, publication.remark))
    print(f"written to {given.out}")


def _named(
    found: Mapping[str, Described], numbers: list[str] | None, kind: str, default: list[str]
) -> dict[str, Described]:
    """Tables or figures by the numbers that were asked for.

    Raises:
        UpsrError: the paper has no such one here.
    """
    chosen = default if numbers is None else numbers
    if unknown := [number for number in chosen if number not in found]:
        raise UpsrError(f"--{kind} {unknown[0]}: this paper has here {', '.join(found)}")
    return {number: found[number] for number in chosen}


def _show(table: Table, folder: Path) -> None:
    """Print a table, or that it is empty: rows of nothing but published values are for its file."""
    if table.measured:
        print(FORMATS["md"](table))
    else:
        print(
            f"### Table {table.number}. {table.title}\n\n{table.size} cells, none measured here yet; "
            f"the published values and what each cell needs: {folder / f'table_{table.number}.md'}\n"
        )


def _evaluated(
    given: argparse.Namespace,
    run: Any,
    publication: Publication,
    pairs: Mapping[str, set[str]],
    absent: Mapping[str, str],
) -> dict[str, Any] | None:
    here = {method: {name for name in names if name not in absent} for method, names in pairs.items()}
    datasets = sorted({name for names in here.values() for name in names})
    if not datasets:
        return None
    plan = Plan(
        datasets=tuple(datasets),
        methods=tuple(here),
        protocols=(publication.protocol,),
        folder=given.out / "evaluation",
        seeds=tuple(dict.fromkeys(given.seeds)),
        datasets_root=given.datasets_root,
        pairs=here,
        max_images=given.max_images,
        batch_size=given.batch_size,
        metric_weights=given.metric_weights,
    )
    return run_evaluation(plan, run)


def _unavailable(methods: Iterable[str], device: torch.device) -> list[dict[str, Any]]:
    """Methods that could not be evaluated if there were datasets, as in a summary."""
    found = []
    for name in methods:
        try:
            make_ready(ENTRIES.read(name), device, None)
        except (MissingWeightsError, WrongWeightsError) as error:
            found.append(asdict(Unavailable.because(name, None, error)))
    return found


def _unusable(names: Sequence[str], root: Path) -> dict[str, str]:
    """Datasets that cannot be evaluated on, with the reasons."""
    reasons = {}
    for name in names:
        benchmark = BENCHMARKS.read(name)
        try:
            problems = check(benchmark, root, decode=False).problems
        except UpsrError as error:
            problems = [str(error)]
        if problems:
            reasons[name] = f"{name}: {'; '.join(problems)}" if not problems[0].startswith(name) else problems[0]
    return reasons


def _meter(given: argparse.Namespace, device: torch.device) -> CostMeter:
    on_gpu = device.type != "cpu"
    repeats = given.repeats or (_GPU_REPEATS if on_gpu else _CPU_REPEATS)
    return CostMeter(device, repeats, batch=given.cost_batch or (None if on_gpu else 1))


def _origin(summary: Mapping[str, Any] | None, device: torch.device, remark: str | None) -> str:
    facts = machine(device)
    place = facts.get("gpu", f"{facts['cpu']}, {facts['threads']} threads")
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    seeds = "" if summary is None else f" Seeds {', '.join(map(str, summary['seeds']))}."
    return f"Measured on {place}; {packages}.{seeds} {remark or ''}".rstrip()
