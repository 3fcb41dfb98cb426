"""Repeat the beginning of the trainings that made the weights that ship, and compare the losses with the recorded ones.

Needs what they were trained on: photos (tiny), or the teacher caches of options/teaching/tiny2.yml and tiny2_mild.yml (tiny-1; an
hour of one core).
A CPU with other vector instructions or another number of threads sums in another order; the differences grow slowly from the
last bits and stay far below the tolerance in 200 iterations, while another seed, photo or option shows in the first line.

The denoiser of tiny-1 is an exception from iteration 101, where its discriminator comes in: two networks against each other part
from the smallest difference. g ships in half precision; with it, and not with the g in full precision that it was trained beside,
the first 100 iterations differ by 0.13 % at most and the next 100 by up to 12 %. With that g, which make train-tiny keeps
(path.pretrain_network_aux=experiments/tiny2/stage3/models/net_g_latest.safetensors), all 200 repeat digit for digit.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.ship_weights import RECORDED_ITERATIONS, describe_data, first_losses, read_record
from upsr.arguments import ArgumentParser
from upsr.config import CommonOptions, load_options
from upsr.engine.distributed import Runtime
from upsr.engine.setup import checked_options
from upsr.engine.train_loop import train
from upsr.errors import UpsrError, exiting

EXAMPLES = """examples:
  python -m scripts.verify_weights                              both stages of tiny, five to ten minutes on two cores
  python -m scripts.verify_weights --parts denoiser --iterations 40 --data /data/BSDS500
  python -m scripts.verify_weights --weights tiny-1 --parts denoiser      with the caches that make train-tiny has made"""

WEIGHTS = Path("upsr/weights")
TRAININGS = {
    "tiny": {"g": "options/tiny/stage1.yml", "denoiser": "options/tiny/stage2.yml"},
    "tiny-1": {"g": "options/tiny2/stage3.yml", "denoiser": "options/tiny2/stage4.yml"},
}
"""Option files by shipped weights and part."""
TOLERANCE = 0.02
TOLERANCE_AGAINST = 0.25
"""The same where a discriminator is trained against."""


@exiting
def main() -> int:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--weights", choices=TRAININGS, default="tiny", help="(tiny)")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="g, denoiser (all that are recorded)")
    parser.add_argument(
        "--data", type=Path, nargs="+", metavar="PATH",
        help="photos, or index.json of each teacher cache (as the option file says)",
    )  # fmt: skip
    parser.add_argument(
        "--force-yml", nargs="+", default=[], metavar="KEY=VALUE", help="as for train.py: a backbone's path"
    )
    parser.add_argument("--iterations", type=int, default=RECORDED_ITERATIONS, help=f"({RECORDED_ITERATIONS})")
    given = parser.parse_args()
    stages = TRAININGS[given.weights]
    if unknown := sorted(set(given.parts or ()) - set(stages)):
        parser.error(f"--parts: no record of '{unknown[0]}' of {given.weights}; there is: {', '.join(stages)}")
    found = [
        verify(given.weights, part, given.data, given.iterations, given.force_yml) for part in given.parts or stages
    ]
    same = all(difference.tolerable for difference in found)
    print(
        f"\n{'the recorded training' if same else 'not the recorded training'}: largest difference "
        + ", ".join(map(str, found))
    )
    return 0 if same else 1


@dataclass(frozen=True)
class Difference:
    """The largest relative differences of a stage's losses.

    Attributes:
        alone: of iterations in which no discriminator is trained against.
        against: of the others.
    """

    alone: float
    against: float

    @property
    def tolerable(self) -> bool:
        """True for the recorded training."""
        return self.alone <= TOLERANCE and self.against <= TOLERANCE_AGAINST

    def __str__(self) -> str:
        return f"{self.alone:.2%}" + (f" ({self.against:.2%} against a discriminator)" if self.against else "")


def verify(
    name: str,
    part: str,
    data: Sequence[Path] | None = None,
    iterations: int = RECORDED_ITERATIONS,
    changes: Sequence[str] = (),
) -> Difference:
    """Train the beginning of a stage; returns the largest differences of its losses.

    Args:
        name: of shipped weights.
        part: ``"g"`` or ``"denoiser"``.
        data: photos, or the index of each teacher cache; what the option file names if None.
        changes: ``key=value`` of the option file, such as the path of LPIPS's backbone.

    Raises:
        UpsrError: the data are not the recorded ones, or none of the losses is recorded this early.
    """
    record, option_file = read_record(WEIGHTS / name)[part], TRAININGS[name][part]
    train_set = dict(load_options(option_file).datasets["train"].arguments)
    place = "index" if "index" in train_set else "dataroot_gt"
    if data is not None:
        paths = [str(path) for path in data]
        train_set[place] = paths[0] if isinstance(train_set[place], str) and len(paths) == 1 else paths
    if describe_data(train_set) != record["photos"]:
        what = "photos" if place == "dataroot_gt" else "crops"
        raise UpsrError(f"{train_set[place]}: not the {what} of the training; see {WEIGHTS / name}/README.md")
    return repeat(name, part, f"datasets.train.{place}={json.dumps(train_set[place])}", iterations, changes)


def repeat(name: str, part: str, data: str, iterations: int, changes: Sequence[str] = ()) -> Difference:
    """The same without a check of the data.

    Args:
        data: ``datasets.train.KEY=VALUE``, where they are.
    """
    record, option_file = read_record(WEIGHTS / name)[part], TRAININGS[name][part]
    recorded = {int(i): loss for i, loss in record["losses"].items() if int(i) <= iterations}
    if not recorded:
        raise UpsrError(f"--iterations: the first recorded loss is that of iteration {min(map(int, record['losses']))}")
    with tempfile.TemporaryDirectory() as folder:
        run = [f"manual_seed={record['seed']}", f"train.total_iter={max(recorded)}", data,
               f"logger.print_freq={min(recorded)}", f"path.experiments_root={folder}",
               *([f"path.pretrain_network_aux={name}"] if part == "denoiser" else []), *changes]  # fmt: skip
        opt = checked_options(option_file, [*run, *_without_lpips(option_file)], "train")
        found = first_losses(train(opt, Runtime(torch.device("cpu"))))
    print(f"\n{name}, {part}\niteration  recorded     found  difference")
    differences = {iteration: abs(found[iteration] - loss) / abs(loss) for iteration, loss in recorded.items()}
    for iteration, loss in recorded.items():
        print(f"{iteration:9}  {loss:.6f}  {found[iteration]:.6f}  {differences[iteration]:10.3%}")
    alone = _iterations_alone(opt)
    return Difference(
        max((value for iteration, value in differences.items() if iteration <= alone), default=0.0),
        max((value for iteration, value in differences.items() if iteration > alone), default=0.0),
    )


def _iterations_alone(opt: CommonOptions) -> float:
    """Iterations before the discriminator, of a training with one."""
    return opt.train.gan_start if getattr(opt.train, "gan_opt", None) else math.inf


def _without_lpips(option_file: str) -> list[str]:
    """The weights were trained where the last of the perceptual losses was to be had; elsewhere another would be taken."""
    train_options = load_options(option_file).train
    perceptual = train_options.perceptual_opt if train_options else None
    if perceptual is None or perceptual.type != "FirstAvailableLoss":
        return []
    return [f"train.perceptual_opt={json.dumps(perceptual.arguments['losses'][-1])}"]


if __name__ == "__main__":
    sys.exit(main())
