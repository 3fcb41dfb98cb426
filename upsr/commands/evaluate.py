"""Restore and measure: every method on every dataset with every seed. An interrupted evaluation goes on where it was."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from upsr.arguments import add_datasets_root, add_launcher, path
from upsr.choices import TABLE_FORMATS
from upsr.commands.mistakes import say_broken
from upsr.config.schema import TileOptions
from upsr.engine.distributed import runtime
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.entries import ENTRIES, describe
from upsr.evaluation.plan import Plan
from upsr.evaluation.protocols import PROTOCOLS
from upsr.evaluation.session import run_evaluation
from upsr.report.console import print_summary

EXAMPLES = """examples:
  upsr evaluate --methods bicubic UPSR-5 --datasets RealSR RealSet65
  upsr evaluate --methods bicubic my_network.pth results/their_images --datasets Set14 --protocols upsr strict classic
  upsr evaluate --methods UPSR-5 --datasets RealSR --seeds 0 1 2 --out results/three_seeds
  torchrun --nproc_per_node=4 -m upsr evaluate --methods UPSR-5 --datasets ImageNet-Test --batch-size 32

A method is a name in options/methods/, an option file, the folder or name of a training run, a checkpoint that spandrel
recognises, or a folder of finished images. Datasets are described in datasets/*.yml, protocols in options/protocols/*.yml;
`--list` names all of them.

The folder gets images.csv (or .parquet) with every value, summary.json (means, intervals, and all that the numbers depend
on: protocol, metric versions, weights' sha256, options, seed, machine) and images/METHOD/seed_N/DATASET/. Finished images
are not done again while their files are as they were; adding methods, datasets or seeds to the same folder only does what is
new, and the tables have all that the folder holds.

Exit codes: 0 every method was measured; 1 one was not, and a line says what it needs; 2 a mistake, or nothing was measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr evaluate``."""
    parser.add_argument("--methods", nargs="+", default=[], metavar="METHOD")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="DATASET")
    parser.add_argument("--protocols", nargs="+", default=["upsr"], metavar="PROTOCOL", help="how to measure (upsr)")
    parser.add_argument(
        "--metrics", nargs="+", metavar="METRIC", help="only these metrics of the protocols; also any of pyiqa by name"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds of methods that draw noise (0)"
    )
    parser.add_argument("--out", type=path, default=Path("results/evaluation"), help="folder (results/evaluation)")
    add_datasets_root(parser)
    parser.add_argument("--max-images", type=int, metavar="N", help="only the first N images of each set")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="equally large images at once (1)")
    parser.add_argument("--num-workers", type=int, default=0, metavar="N", help="loader processes of each process (0)")
    parser.add_argument(
        "--tile", type=int, metavar="PIXELS", help="side of LR tiles of large images; by default the method's"
    )
    parser.add_argument(
        "--tile-overlap", type=int, metavar="PIXELS", help="overlap of tiles (64, of small tiles half their side)"
    )
    parser.add_argument("--no-images", action="store_true", help="do not write the restored images")
    parser.add_argument("--no-report", action="store_true", help="do not write the HTML report")
    parser.add_argument("--format", choices=TABLE_FORMATS, default="csv", help="of the table by image (csv)")
    parser.add_argument(
        "--metric-weights", type=path, metavar="FOLDER", help="pyiqa's weights, as in torch's hub folder"
    )
    parser.add_argument("--num-gpu", default="auto", help="auto, 0 for the CPU, or the number of GPUs (auto)")
    add_launcher(parser)
    parser.add_argument("--list", action="store_true", help="name all methods, datasets and protocols, and end")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    if given.list:
        return _list()
    plan = plan_of(given)
    num_gpu: int | Literal["auto"] = (
        "auto" if given.num_gpu == "auto" else _count("--num-gpu", given.num_gpu, smallest=0)
    )
    with runtime(given.launcher, num_gpu) as run:
        summary = run_evaluation(plan, run)
        if run.is_main:
            print_summary(summary)
            if not given.no_report:
                from upsr.report.html import write_report  # here: a report is not always wanted

                print(f"\nreport: {write_report(plan.folder)}")
    if not (gaps := unmeasured(plan, summary)):
        return 0
    if run.is_main:
        print(
            f"error: not measured: {', '.join(gaps)}; what each needs is said above: put it in place and run the command again, "
            "which does only what is missing",
            file=sys.stderr,
        )
    return 1


def unmeasured(plan: Plan, summary: Mapping[str, Any]) -> list[str]:
    """The methods of a plan without numbers, with the dataset where it is only one.

    Results of earlier evaluations that the folder no longer shows are not among them.
    """
    methods = {describe(given).name for given in plan.methods}
    datasets = {None, *(BENCHMARKS.read(given).name for given in plan.datasets)}
    return [
        item["method"] if item["dataset"] is None else f"{item['method']} on {item['dataset']}"
        for item in summary["unavailable"]
        if item["method"] in methods and item["dataset"] in datasets
    ]


def plan_of(given: argparse.Namespace) -> Plan:
    """The arguments as a plan.

    Raises:
        UpsrError: they make no sense.
    """
    for name in ("methods", "datasets"):
        if not getattr(given, name):
            raise UpsrError(f"--{name}: name at least one (`upsr evaluate --list` names all)")
    _count("--batch-size", given.batch_size)
    if given.max_images is not None:
        _count("--max-images", given.max_images)
    return Plan(
        datasets=tuple(given.datasets),
        methods=tuple(given.methods),
        protocols=tuple(given.protocols),
        folder=given.out,
        seeds=tuple(dict.fromkeys(given.seeds)),
        datasets_root=given.datasets_root,
        metrics=tuple(given.metrics) if given.metrics else None,
        max_images=given.max_images,
        batch_size=given.batch_size,
        num_workers=given.num_workers,
        tile=_tile(given.tile, given.tile_overlap),
        save_images=not given.no_images,
        form=given.format,
        metric_weights=given.metric_weights,
    )


def _list() -> int:
    """Print all methods, datasets and protocols; a description with mistakes costs a line and the exit code."""
    broken: list[str] = []
    for title, catalogue in (("methods", ENTRIES), ("datasets", BENCHMARKS), ("protocols", PROTOCOLS)):
        print(f"{title}:")
        for item in catalogue.readable(broken.append):
            print(f"  {item.name:16} {item.about}")
    return say_broken(broken)


def _tile(size: int | None, overlap: int | None) -> TileOptions | None:
    """Tiles of the given size; small ones overlap by half, as the pipeline's do."""
    if size is None:
        if overlap is not None:
            raise UpsrError("--tile-overlap: it needs --tile, the side of the tiles")
        return None
    if overlap is None:
        overlap = min(TileOptions().overlap, size // 2)
    if size < 8 or not 0 <= overlap < size:
        raise UpsrError("--tile: at least 8 pixels, and more than --tile-overlap")
    return TileOptions(size=size, overlap=overlap)


def _count(name: str, value: int | str, smallest: int = 1) -> int:
    try:
        if (number := int(value)) >= smallest:
            return number
    except ValueError:
        pass
    raise UpsrError(f"{name}: a whole number of at least {smallest} is needed, not '{value}'")
