"""Fill a folder of upsr/weights/ from the runs of both stages: half-precision weights, and the record of their training.

The record (training.json) holds the options, the losses of the first iterations, the versions and the fingerprint of the
training photos; scripts/verify_weights.py repeats the training's beginning and compares.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from upsr.archs.weights import read_weight_file, select_weights
from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write
from upsr.data.backends import list_keys
from upsr.data.image_io import decode_image
from upsr.data.shards import RECIPE_FILE
from upsr.data.taught import TaughtCrops
from upsr.errors import UpsrError, exiting
from upsr.evaluation.benchmarks import fingerprint, pixel_digest
from upsr.provenance import machine, versions

EXAMPLES = """examples:
  python -m scripts.ship_weights upsr/weights/tiny-1 --g experiments/tiny2/stage3 --denoiser experiments/tiny2/stage5
  python -m scripts.ship_weights upsr/weights/tiny --g experiments/tiny_stage1         # before stage two, which reads it"""

RECORD = "training.json"
RECORDED_ITERATIONS = 200
_TOTALS = ("losses/total", "losses/g/total")
"""Without and with a discriminator."""


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("target", type=Path, help="folder to write")
    for part, what in (("g", "g (stage one)"), ("denoiser", "the denoiser (stage two)")):
        parser.add_argument(f"--{part}", type=Path, metavar="RUN", help=f"folder of the run that trained {what}")
    given = parser.parse_args()
    runs = {part: getattr(given, part) for part in ("g", "denoiser") if getattr(given, part) is not None}
    if not runs:
        raise UpsrError("name at least one run: --g RUN, --denoiser RUN")
    ship(runs, given.target)


def ship(runs: Mapping[str, Path], target: Path) -> None:
    """Write the weights of each part and the record of its run; the other parts of the folder stay."""
    described = {part: describe_run(folder) for part, folder in runs.items()}
    for part, folder in runs.items():
        path = target / f"{part}.safetensors"
        halve(folder / "models/net_g_latest.safetensors", path)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    record = read_record(target) if (target / RECORD).is_file() else {}
    with atomic_write(target / RECORD) as path:
        path.write_text(json.dumps({**record, **described}, indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """Records of the trainings of a folder's weights, by part."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UpsrError(f"{folder / RECORD}: not here; run this in the folder of the checkout") from None


def halve(source: Path, target: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights as float16, and whole numbers (indices and masks of window attention) in 8 bit where all of a tensor fit.

    Loading makes them the types of the network.

    Args:
        metadata: of the file.

    Raises:
        UpsrError: the source cannot be read, or holds a number that float16 does not.
    """
    _, weights = select_weights(read_weight_file(source), None, source)
    halved = {name: _smallest(value).contiguous() for name, value in weights.items()}
    if not all(bool(torch.isfinite(value).all()) for value in halved.values()):
        raise UpsrError(f"{source}: a weight is too large for float16")
    with atomic_write(target) as temporary:
        save_file(halved, temporary, metadata={"format": "pt", **(metadata or {})})


def _smallest(value: Tensor) -> Tensor:
    for dtype in (torch.uint8, torch.int8):
        if torch.equal(value.to(dtype).to(value.dtype), value):
            return value.to(dtype)
    return value.half() if value.is_floating_point() else value


def describe_run(folder: Path) -> dict[str, Any]:
    """Record of a training run."""
    try:
        options = yaml.safe_load((folder / "options.yml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UpsrError(f"{folder}: no options.yml; this is no folder of a training run") from None
    return {
        "seed": options["manual_seed"],
        "iterations": options["train"]["total_iter"],
        "photos": describe_data(options["datasets"]["train"]),
        "versions": versions(),
        "machine": machine(torch.device("cpu")),
        "losses": {str(iteration): loss for iteration, loss in first_losses(beginning_of(folder, options)).items()},
    }


def beginning_of(run: Path, options: Mapping[str, Any]) -> Path:
    """Folder of the run whose training state a run went on from, or the run's own."""
    state = options["path"].get("resume_state")
    return Path(state).parents[1] if state else run


def describe_data(train_set: Mapping[str, Any]) -> dict[str, Any]:
    """What a training set was made of: photos, or the recipe of each teacher cache, with digests of its photos and teacher."""
    if "index" not in train_set:
        return describe_photos(Path(train_set["dataroot_gt"]))
    if isinstance(train_set["index"], list):
        return {"caches": [describe_cache(Path(index)) for index in train_set["index"]]}
    return describe_cache(Path(train_set["index"]))


def describe_cache(index: Path) -> dict[str, Any]:
    """Number of crops and digest of the recipe of a teacher cache."""
    recipe = json.loads((index.parent / RECIPE_FILE).read_text(encoding="utf-8"))
    content = json.dumps(recipe, sort_keys=True).encode()
    return {"crops": len(TaughtCrops(str(index)).keys), "recipe_sha256": hashlib.sha256(content).hexdigest()}


def describe_photos(folder: Path) -> dict[str, Any]:
    """Number and fingerprint of training photos."""
    keys = list_keys(folder)
    digests = (pixel_digest(decode_image((folder / key).read_bytes(), 3, key)) for key in keys)
    return {"images": len(keys), "pixels_sha256": fingerprint(digests)}


def first_losses(run: Path, until: int = RECORDED_ITERATIONS) -> dict[int, float]:
    """The total loss of the network that ships, by iteration (the mean since the one before), of a run's beginning."""
    path = run / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(int(row[0]), row[1], float(row[2])) for row in csv.reader(file) if row[0].isdigit()]
    except FileNotFoundError:
        raise UpsrError(f"{path}: no losses; a run writes them with logger.use_csv") from None
    return {iteration: value for iteration, tag, value in rows if tag in _TOTALS and iteration <= until}


if __name__ == "__main__":
    sys.exit(main())
