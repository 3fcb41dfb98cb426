"""Datasets: benchmarks (where to get them, checks, making them), and training images in the forms that suit a machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from upsr.arguments import add_datasets_root, path
from upsr.commands.mistakes import say_broken
from upsr.data.backends import list_keys, names_in
from upsr.data.copies import LeftOut, make_lmdb, make_meta_info, make_shards
from upsr.data.shards import index_shards
from upsr.errors import UpsrError, one_line
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
  upsr data preview --input datasets/photos --output preview.png
  upsr data preview --opt options/000_UPSR_RealSR_x4.yml --input datasets/photos --output preview.png --count 12 --seed 7
  upsr data meta-info --input datasets/ImageNet/train --output datasets/imagenet.txt --min-size 256
  upsr data lmdb --input datasets/photos --output datasets/photos.lmdb
  upsr data shards --input datasets/ImageNet/train --output datasets/imagenet_shards
  upsr data shards --index-only datasets/shards_from_elsewhere

A benchmark is described by datasets/NAME.yml; new ones need no more than such a file. A teacher cache is described by a
recipe (upsr/config/schema_teach.py); TaughtDataset trains on it. Options take an lmdb or the index.json of shards, of a disk or
of object storage (s3://bucket/imagenet_shards/index.json, with s3fs), in the place of a folder: dataroot_gt."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr data``: those of each action apart."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, about: str) -> argparse.ArgumentParser:
        lines = [line for line in EXAMPLES.splitlines() if line.startswith(f"  upsr data {name}")]
        examples = "\n".join(["examples:", *lines])
        return actions.add_parser(name, help=about, description=about.capitalize() + ".", epilog=examples)

    def copying(name: str, about: str, output: str, *, required: bool = True) -> argparse.ArgumentParser:
        parser = action(name, about)
        parser.add_argument("--input", type=path, required=required, help="folder of images, searched at any depth")
        parser.add_argument("--output", type=path, required=required, help=output)
        parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
        return parser

    listing = action("list", "every benchmark and whether it is here; or all about some of them")
    listing.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to describe")
    add_datasets_root(listing)
    checking = action("check", "whether benchmarks are whole: counts, sizes, pairs, damaged files, fingerprints")
    checking.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; without one all that are here")
    add_datasets_root(checking)
    preparing = action("prepare", "make the folder of a benchmark from what was downloaded, and check it")
    preparing.add_argument("names", nargs=1, metavar="NAME", help="benchmark")
    preparing.add_argument("--source", type=path, required=True, help="what was downloaded: a folder, zip or tar")
    preparing.add_argument("--seed", type=int, default=0, help="seed of the degradations that are drawn (0)")
    add_datasets_root(preparing)
    teaching = action("teach", "degrade crops and keep a teacher's estimates of them, to train on; run again to resume")
    teaching.add_argument("recipe", metavar="RECIPE.yml", help="what to make, see upsr/config/schema_teach.py")
    teaching.add_argument("--out", type=path, required=True, metavar="FOLDER", help="folder of the shards")
    teaching.add_argument("--workers", type=int, default=1, metavar="N", help="processes, of one thread each (1)")
    preview = action("preview", "a picture of what the degradation of an option file makes of your images")
    preview.add_argument("-opt", "--opt", metavar="FILE.yml", help="option file (the released degradation at x4)")
    preview.add_argument("--input", required=True, help="folder of images")
    preview.add_argument("--output", type=path, required=True, help="PNG to write: a row for each image, HR first")
    preview.add_argument("--count", type=int, default=6, help="images (6)")
    preview.add_argument("--versions", type=int, default=5, help="degraded versions of each (5)")
    preview.add_argument("--size", type=int, default=256, help="side of the HR crop (256)")
    preview.add_argument("--seed", type=int, default=0, help="other crops, kernels and decisions (0)")
    listing = copying(
        "meta-info", "list the images that are whole and large enough, for meta_info", "text file to write"
    )
    listing.add_argument("--min-size", type=int, default=1, help="leave out images with a smaller side (1)")
    copying("lmdb", "put a folder of images into an lmdb in BasicSR's layout", "NAME.lmdb to make")
    shards = copying("shards", "put a folder of images into WebDataset shards", "folder to make", required=False)
    shards.add_argument("--index-only", type=path, metavar="FOLDER", help="index shards that are there already")
    shards.add_argument("--megabytes", type=int, default=512, help="size of a shard (512)")


def main(arguments: argparse.Namespace) -> int:
    """Run it."""
    return _ACTIONS[arguments.action](arguments)


def _list(given: argparse.Namespace) -> int:
    if given.names:
        for name in given.names:
            _describe(BENCHMARKS.read(name), given.datasets_root)
        return 0
    broken: list[str] = []
    for benchmark in BENCHMARKS.readable(broken.append):
        here = "here  " if benchmark.root(given.datasets_root).is_dir() else "absent"
        print(f"{benchmark.name:15} {here} {benchmark.expected.images or '?':>5} images  {benchmark.about}")
    return say_broken(broken)


def _describe(benchmark: Benchmark, datasets_root: Path) -> None:
    print(f"{benchmark.name}: {benchmark.about}")
    for place in benchmark.get:
        print(f"  get      {place}")
    print(f"  licence  {benchmark.licence}")
    print(f"  folder   {benchmark.root(datasets_root)}")
    for key, value in benchmark.files.arguments.items():
        print(f"           {key}: {value}")
    print(f"  expected {benchmark.expected.images or 'an unknown number of'} images, x{benchmark.scale}")


def _check(given: argparse.Namespace) -> int:
    broken: list[str] = []
    if given.names:
        benchmarks = [BENCHMARKS.read(name) for name in given.names]
    else:
        benchmarks = [b for b in BENCHMARKS.readable(broken.append) if b.root(given.datasets_root).is_dir()]
    code = say_broken(broken)
    if not (benchmarks or broken):
        raise UpsrError(f"no benchmark is in {given.datasets_root}; `upsr data list` says where to get them")
    failed = []
    for benchmark in benchmarks:
        try:
            findings = check(benchmark, given.datasets_root, decode=True)
        except UpsrError as error:
            findings = Findings(problems=[str(error)])
        verdict = "unusable" if findings.problems else "not the published set" if findings.doubts else "as published"
        expected = benchmark.expected
        if verdict == "as published" and not (expected.pixels_sha256 or expected.names_sha256):
            number = "number and sizes as published" if expected.images else "whole, for all that is known here"
            verdict = f"{number} (no fingerprint of it is known here)"
        print(f"{benchmark.name}: {verdict}")
        for line in (*findings.problems, *findings.doubts):
            print(f"  - {line}")
        for key, value in findings.facts.items():
            print(f"  {key}: {value}")
        failed += [benchmark.name] if findings.problems else []
    if failed:
        print(f"error: {', '.join(failed)} cannot be evaluated on", file=sys.stderr)
    return UpsrError.exit_code if failed else code


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


def _preview(given: argparse.Namespace) -> int:
    if given.output.suffix.lower() != ".png":
        raise UpsrError(f"--output: {given.output}; the picture is a PNG, so give a name that ends in .png")
    from upsr.config import load_options
    from upsr.config.schema_data import DegradationOptions
    from upsr.data.image_io import write_png
    from upsr.data.preview import contact_sheet
    from upsr.methods.base import Facts

    opt = load_options(given.opt) if given.opt else None
    degradation = opt.degradation if opt else DegradationOptions()
    scale = Facts(opt.scale, 3).whole_scale("a preview of the degradation") if opt else 4
    sheet = contact_sheet(
        given.input,
        degradation,
        scale=scale,
        count=given.count,
        versions=given.versions,
        size=given.size,
        seed=given.seed,
    )
    write_png(given.output, sheet)
    print(f"wrote {given.output}")
    return 0


def _meta_info(given: argparse.Namespace) -> int:
    _say_left_out(make_meta_info(given.input, given.output, given.min_size, given.workers))
    print(f"{len(names_in(given.output))} images listed in {given.output}")
    return 0


def _lmdb(given: argparse.Namespace) -> int:
    _say_left_out(make_lmdb(given.input, given.output, given.workers))
    print(_copied(given.output, given.output))
    return 0


def _shards(given: argparse.Namespace) -> int:
    if bool(given.index_only) == bool(given.input and given.output):
        raise UpsrError("upsr data shards: give --input and --output, or --index-only")
    if given.index_only:
        print(f"{index_shards(given.index_only)} images in {given.index_only / 'index.json'}")
        return 0
    _say_left_out(make_shards(given.input, given.output, given.megabytes, given.workers))
    print(_copied(given.output, given.output / "index.json"))
    return 0


def _copied(folder: Path, root: Path) -> str:
    """How many images a copy has, how large it is, and the path that options take."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    return f"{len(list_keys(root))} images, {size / 1e6:.1f} MB in {folder}; dataroot_gt: {root}"


def _say_left_out(left_out: LeftOut) -> None:
    for name, reason in left_out:
        print(f"left out: {one_line(name)}: {reason}", file=sys.stderr)


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "check": _check,
    "prepare": _prepare,
    "teach": _teach,
    "preview": _preview,
    "meta-info": _meta_info,
    "lmdb": _lmdb,
    "shards": _shards,
}
