"""Repeat the beginning of the trainings that made UPSR-tiny, and compare the losses with the recorded ones.

Needs the training photos (upsr/weights/tiny/README.md says which). A CPU with other vector instructions or another number of
threads sums in another order; the differences grow slowly from the last bits and stay far below the tolerance in 200 iterations,
while another seed, photo or option shows in the first line.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from scripts.ship_weights import RECORDED_ITERATIONS, describe_photos, first_losses, read_record
from upsr.arguments import ArgumentParser
from upsr.config import load_options
from upsr.engine.distributed import Runtime
from upsr.engine.setup import checked_options
from upsr.engine.train_loop import train
from upsr.errors import UpsrError, exiting

EXAMPLES = """examples:
  python -m scripts.verify_weights                              both stages, five to ten minutes on two cores
  python -m scripts.verify_weights --parts denoiser --iterations 40 --photos /data/BSDS500"""

WEIGHTS = Path("upsr/weights/tiny")
STAGES = {"g": "options/tiny/stage1.yml", "denoiser": "options/tiny/stage2.yml"}
TOLERANCE = 0.02


@exiting
def main() -> int:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--parts", nargs="+", choices=STAGES, default=list(STAGES), help="networks (both)")
    parser.add_argument("--photos", type=Path, default=Path("datasets/BSDS500"), help="photos (datasets/BSDS500)")
    parser.add_argument("--iterations", type=int, default=RECORDED_ITERATIONS, help=f"({RECORDED_ITERATIONS})")
    given = parser.parse_args()
    largest = max(verify(part, given.photos, given.iterations) for part in given.parts)
    same = largest <= TOLERANCE
    print(f"\nlargest difference {largest:.2%}: {'the recorded training' if same else 'not the recorded training'}")
    return 0 if same else 1


def verify(part: str, photos: Path, iterations: int = RECORDED_ITERATIONS) -> float:
    """Train the beginning of a stage; returns the largest relative difference of a loss.

    Raises:
        UpsrError: the photos are not the recorded ones, or none of the losses is recorded this early.
    """
    record = read_record(WEIGHTS)[part]
    found_photos = describe_photos(photos)
    if found_photos != record["photos"]:
        raise UpsrError(
            f"{photos}: {found_photos['images']} photos, and not those of the training; see {WEIGHTS}/README.md"
        )
    recorded = {int(i): loss for i, loss in record["losses"].items() if int(i) <= iterations}
    if not recorded:
        raise UpsrError(f"--iterations: the first recorded loss is that of iteration {min(map(int, record['losses']))}")
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"manual_seed={record['seed']}", f"train.total_iter={max(recorded)}",
                   f"path.experiments_root={folder}", f"datasets.train.dataroot_gt={photos}"]  # fmt: skip
        opt = checked_options(STAGES[part], [*changes, *_without_lpips(STAGES[part])], "train")
        found = first_losses(train(opt, Runtime(torch.device("cpu"))))
    print(f"\n{part}\niteration  recorded     found  difference")
    differences = []
    for iteration, loss in recorded.items():
        differences.append(abs(found[iteration] - loss) / abs(loss))
        print(f"{iteration:9}  {loss:.6f}  {found[iteration]:.6f}  {differences[-1]:10.3%}")
    return max(differences)


def _without_lpips(option_file: str) -> list[str]:
    """The weights were trained where the last of the perceptual losses was to be had; elsewhere another would be taken."""
    train_options = load_options(option_file).train
    perceptual = train_options.perceptual_opt if train_options else None
    if perceptual is None or perceptual.type != "FirstAvailableLoss":
        return []
    return [f"train.perceptual_opt={json.dumps(perceptual.arguments['losses'][-1])}"]


if __name__ == "__main__":
    sys.exit(main())
