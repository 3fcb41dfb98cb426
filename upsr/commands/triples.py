"""The training set of a second stage: the model of the first samples latents under degraded crops of photos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from upsr.arguments import add_launcher, add_model, model_of, path
from upsr.atomic import sweep, writable_folder
from upsr.choices import DTYPES
from upsr.config.load import RUN_OPTIONS, load_options
from upsr.config.schema_data import DegradationOptions
from upsr.data.datasets import ImageFolder
from upsr.data.shards import index_shards, keep_recipe
from upsr.data.triples import ENDINGS
from upsr.engine.distributed import Runtime, runtime
from upsr.errors import UpsrError
from upsr.evaluation.triples import TripleMaker
from upsr.pipeline.files import load_model
from upsr.pipeline.hardware import dtype_for
from upsr.provenance import digest_of, weights_digest

EXAMPLES = """examples:
  upsr METHOD triples experiments/first --images photos/ -o datasets/triples
  upsr METHOD triples model/ --opt options/stablesr/degradation.yml --images photos/ --number 5000 -o datasets/triples
  torchrun --nproc_per_node=4 -m upsr METHOD triples experiments/first --images photos/ -o datasets/triples

The same command goes on where it was stopped, and with a larger number extends the set; a kill costs each process one shard at
most. FOLDER gets triples-NNNNNN.tar, index.json for TripleDataset, and recipe.json. The model needs no fusion blocks: write
cfw: null in its option file."""

_SAMPLING = ("scale", "sampler", "steps", "eta", "latent", "guidance", "prompt", "negative_prompt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr stablesr triples``."""
    add_model(parser, positional=True)
    parser.add_argument(
        "-opt",
        "--opt",
        type=path,
        metavar="FILE.yml",
        help="whose degradation is used (WEIGHTS, an option file or run)",
    )
    parser.add_argument("--images", type=path, required=True, help="folder, lmdb or index of shards of HR photos")
    parser.add_argument(
        "--number", type=int, default=100_000, metavar="N", help="triples, rounded up to whole shards (100000)"
    )
    parser.add_argument("-o", "--out", type=path, required=True, metavar="FOLDER", help="folder of the shards")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the crops (what the U-Net was trained on)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="network calls for each latent (200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other crops, degradations and noise (0)")
    parser.add_argument("--per-shard", type=int, default=32, metavar="N", help="triples in a shard (32)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="latents that are sampled at once (1)")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto", help="of the networks (auto)")
    add_launcher(parser)


def main(given: argparse.Namespace) -> int:
    """Run it."""
    for name in ("number", "per_shard", "batch"):
        if getattr(given, name) < 1:
            raise UpsrError(f"--{name.replace('_', '-')}: give at least 1")
    degradation = _degradation(given)
    photos = ImageFolder(str(given.images), 3)
    model, _ = load_model(**model_of(given))
    if "latent" not in model.knobs():
        raise UpsrError(
            f"{given.weights}: {type(model).__name__} samples no latents under LR images; name one that does"
        )
    method: Any = model.adjusted(steps=given.steps)
    with runtime(given.launcher, "auto") as run:
        dtype = dtype_for(given.dtype, run.device)
        maker = TripleMaker(
            method.for_inference(dtype).to(run.device), degradation, photos, size=given.size, seed=given.seed
        )
        if run.is_main:
            made_by = {
                "model": {name: weights_digest(method.parts()[name]) for name in ("conditioning", "unet", "vae")},
                "sampling": {**{name: getattr(method.sampling, name) for name in _SAMPLING}, "dtype": str(dtype)},
                "degradation": degradation.model_dump(mode="json"),
                "photos": digest_of(list(photos.keys)),
                "seed": given.seed,
                "size": maker.size,
                "triples a shard": given.per_shard,
            }
            sweep(writable_folder(given.out))
            keep_recipe(given.out, made_by)
        _make(maker, given, run)
        if run.is_main:
            files = index_shards(given.out, {Path(ending).suffix for ending in ENDINGS})
            print(f"{files // len(ENDINGS)} triples in {given.out / 'index.json'}")
    return 0


def _degradation(given: argparse.Namespace) -> DegradationOptions:
    source = given.opt or Path(given.weights)
    if source.is_dir():
        source = source / RUN_OPTIONS
    if not source.is_file() or source.suffix not in (".yml", ".yaml"):
        raise UpsrError(
            f"--opt: {given.weights} is neither an option file nor a run; name the file with the degradation"
        )
    return load_options(source).degradation


def _make(maker: TripleMaker, given: argparse.Namespace, run: Runtime) -> None:
    """Make the shards that are not there, each on the process that asks for it first; returns when all are."""
    paths = [given.out / f"triples-{shard:06d}.tar" for shard in range(-(-given.number // given.per_shard))]
    missing = run.from_main([shard for shard, path in enumerate(paths) if not path.is_file()])
    with tqdm(total=len(missing), desc="triples", unit="shard", disable=None if run.is_main else True) as bar:
        for place in run.numbers("triples"):
            if place >= len(missing):
                break
            bar.update(place - bar.n)
            first = missing[place] * given.per_shard
            maker.write_shard(paths[missing[place]], first, first + given.per_shard, given.batch)
    run.barrier()
