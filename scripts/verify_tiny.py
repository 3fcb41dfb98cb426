"""Repeat the first 200 iterations of the training that made UPSR-tiny, and compare the losses with the recorded ones.

Needs the training photos (upsr/weights/tiny/README.md says which) in datasets/BSDS500. The recorded losses are beside the
weights. A CPU with other vector instructions or another number of threads sums in another order; differences grow slowly from
the last bits, and stay far below the tolerance in 200 iterations.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import torch

from upsr.engine.distributed import Runtime
from upsr.engine.setup import checked_options
from upsr.engine.train_loop import train
from upsr.errors import UpsrError

EXAMPLES = """examples:
  python scripts/verify_tiny.py                                 both stages, about five minutes on two cores
  python scripts/verify_tiny.py --stage 2 --photos /data/BSDS500"""

RECORDS = Path("upsr/weights/tiny")
ITERATIONS = 200
TOLERANCE = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", type=int, nargs="+", choices=[1, 2], default=[1, 2], help="stages (both)")
    parser.add_argument("--photos", default="datasets/BSDS500", help="training photos (datasets/BSDS500)")
    given = parser.parse_args()
    try:
        largest = max(verify(stage, given.photos) for stage in given.stage)
    except UpsrError as error:
        print(f"{error.label}: {error}", file=sys.stderr)
        return error.exit_code
    same = largest <= TOLERANCE
    print(f"\nlargest difference {largest:.2%}: {'the recorded training' if same else 'another training'}")
    return 0 if same else 1


def verify(stage: int, photos: str) -> float:
    """Train the beginning of a stage; returns the largest relative difference of a loss."""
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"train.total_iter={ITERATIONS}", f"path.experiments_root={folder}",
                   f"datasets.train.dataroot_gt={photos}"]  # fmt: skip
        opt = checked_options(f"options/tiny/stage{stage}_tiny.yml", changes, "train")
        found = losses(train(opt, Runtime(torch.device("cpu"))) / "metrics.csv")
    recorded = losses(RECORDS / f"losses_stage{stage}.csv")
    print(f"\nstage {stage}\niteration  recorded      found  difference")
    differences = []
    for iteration, value in recorded.items():
        difference = abs(found[iteration] - value) / abs(value)
        differences.append(difference)
        print(f"{iteration:9}  {value:.6f}   {found[iteration]:.6f}      {difference:.3%}")
    return max(differences)


def losses(path: Path) -> dict[int, float]:
    """The total loss by iteration, of the first iterations."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(int(row[0]), row[1], float(row[2])) for row in csv.reader(file) if row[0].isdigit()]
    except FileNotFoundError:
        raise UpsrError(f"{path}: no recorded losses; run this in the folder of the checkout") from None
    return {iteration: value for iteration, tag, value in rows if tag == "losses/total" and iteration <= ITERATIONS}


if __name__ == "__main__":
    sys.exit(main())
