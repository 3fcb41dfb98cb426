"""Benchmark datasets: what they are and where to get them, whether they are whole, and making them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from upsr.arguments import path
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS, Benchmark, Findings, check
from upsr.evaluation.prepare import prepare

EXAMPLES = """examples:
  upsr data list                                              every benchmark, and whether it is here
  upsr data list RealSR                                       where to get one, its terms, what it should hold
  upsr data prepare RealSR --source ~/Downloads/RealSR_V3     a folder, zip or tar; makes datasets/RealSRV3/
  upsr data prepare ImageNet-Test --source /data/ILSVRC2012_img_val --seed 0
  upsr data check Set14 RealSR                                counts, sizes, pairs, damaged files, fingerprints
  upsr data teach options/teaching/tiny2.yml --out datasets/taught --workers 2
                                                              degraded crops with a teacher's estimates; run again to resume

A benchmark is described by datasets/NAME.yml; new ones need no more than such a file. A teacher cache is described by a
recipe (upsr/config/schema_teach.py); TaughtDataset trains on it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr data``: those of each action apart."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, about: str) -> argparse.ArgumentParser:
        lines = [line for line in EXAMPLES.splitlines() if line.startswith(f"  upsr data {name}")]
        examples = "\n".join(["examples:", *lines])
        return actions.add_parser(name, help=about, description=about.capitalize() + ".", epilog=examples)

    def root(of: argparse.ArgumentParser) -> None:
        of.add_argument(
            "--datasets_root", type=path, default=Path("datasets"), help="folder of the datasets (datasets)"
        )

    listing = action("list", "every benchmark and whether it is here; or all about some of them")
    listing.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to describe")
    root(listing)
    checking = action("check", "whether benchmarks are whole: counts, sizes, pairs, damaged files, fingerprints")
    checking.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; without one all that are here")
    root(checking)
    preparing = action("prepare", "make the folder of a benchmark from what was downloaded, and check it")
    preparing.add_argument("names", nargs=1, metavar="NAME", help="benchmark")
    preparing.add_argument("--source", type=path, required=True, help="what was downloaded: a folder, zip or tar")
    preparing.add_argument("--seed", type=int, default=0, help="seed of the degradations that are drawn (0)")
    root(preparing)
    teaching = action("teach", "degrade crops and keep a teacher's estimates of them, to train on; run again to resume")
    teaching.add_argument("recipe", metavar="RECIPE.yml", help="what to make, see upsr/config/schema_teach.py")
    teaching.add_argument("--out", type=path, required=True, metavar="FOLDER", help="folder of the shards")
    teaching.add_argument("--workers", type=int, default=1, metavar="N", help="processes, of one thread each (1)")


def main(arguments: argparse.Namespace) -> int:
    """Run it."""
    return {"list": _list, "check": _check, "prepare": _prepare, "teach": _teach}[arguments.action](arguments)


def _list(given: argparse.Namespace) -> int:
    if given.names:
        for name in given.names:
            _describe(BENCHMARKS.read(name), given.datasets_root)
        return 0
    for benchmark in BENCHMARKS:
        here = "here  " if benchmark.root(given.datasets_root).is_dir() else "absent"
        print(f"{benchmark.name:14} {here} {benchmark.expected.images:5} images  {benchmark.about}")
    return 0


def _describe(benchmark: Benchmark, datasets_root: Path) -> None:
    print(f"{benchmark.name}: {benchmark.about}")
    for place in benchmark.get:
        print(f"  get      {place}")
    print(f"  licence  {benchmark.licence}")
    print(f"  folder   {benchmark.root(datasets_root)}")
    for key, value in benchmark.files.arguments.items():
        print(f"           {key}: {value}")
    print(f"  expected {benchmark.expected.images} images, x{benchmark.scale}")


def _check(given: argparse.Namespace) -> int:
    names = given.names or [b.name for b in BENCHMARKS if b.root(given.datasets_root).is_dir()]
    if not names:
        raise UpsrError(f"no benchmark is in {given.datasets_root}; `upsr data list` says where to get them")
    failed = []
    for name in names:
        benchmark = BENCHMARKS.read(name)
        try:
            findings = check(benchmark, given.datasets_root, decode=True)
        except UpsrError as error:
            findings = Findings(problems=[str(error)])
        verdict = "unusable" if findings.problems else "not the published set" if findings.doubts else "as published"
        known = benchmark.expected.pixels_sha256 or benchmark.expected.names_sha256
        if verdict == "as published" and not known:
            verdict = "number and sizes as published (no fingerprint of it is known here)"
        print(f"{benchmark.name}: {verdict}")
        for line in (*findings.problems, *findings.doubts):
            print(f"  - {line}")
        for key, value in findings.facts.items():
            print(f"  {key}: {value}")
        failed += [benchmark.name] if findings.problems else []
    if failed:
        print(f"error: {', '.join(failed)} cannot be evaluated on", file=sys.stderr)
    return UpsrError.exit_code if failed else 0


def _prepare(given: argparse.Namespace) -> int:
    benchmark = BENCHMARKS.read(given.names[0])
    images = prepare(benchmark, given.source, given.datasets_root, seed=given.seed)
    print(f"{benchmark.name}: {images} images in {benchmark.root(given.datasets_root)}")
    return _check(given)


def _teach(given: argparse.Namespace) -> int:
    if given.workers < 1:
        raise UpsrError(f"--workers: at least 1 process is needed, not {given.workers}")
    from upsr.evaluation.teaching import read_recipe, teach  # here: the other actions need no teacher

    crops = teach(read_recipe(given.recipe), given.out, given.workers)
    print(f"{crops} crops in {given.out / 'index.json'}")
    return 0
