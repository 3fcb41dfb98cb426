"""Short trainings of the same budget that chose the recipe of UPSR-tiny 1's first two stages, and their table in docs/quality.md.

Each variant changes an option file and is trained for iterations that take about the same processor time, from the same
weights; what each really took is recorded. All are measured on the crops of photos that none of them was trained on
(options/tiny2/kept_apart.txt), image by image.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.markdown import difference_of, heads_of, mark_of, read_results, top, with_text
from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write
from upsr.data import GlobalBatchSampler, TaughtPairsDataset
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import ValidationSet, evaluate
from upsr.engine.setup import checked_model_options
from upsr.errors import UpsrError, exiting
from upsr.evaluation.statistics import compare, describe_sample
from upsr.evaluation.teaching import Crops, read_recipe
from upsr.methods import build_method
from upsr.methods.base import Watch
from upsr.methods.bicubic.method import Bicubic
from upsr.methods.upsr.method import UPSR, Condition
from upsr.metrics import LPIPS, NIQE, PSNR, Grid
from upsr.provenance import machine, versions
from upsr.restoring import ModelRestorer
from upsr.restoring.noise import CounterNoise
from upsr.tiling.scratch import Scratch

EXAMPLES = """examples:
  upsr data teach options/teaching/tiny2_kept_apart.yml --out experiments/tiny2_cache/kept_apart
  upsr data teach options/teaching/tiny2.yml --out experiments/tiny2_cache/taught
  python -m scripts.recipes train g_old g_half --backbone squeezenet1_1-b8a52dc0.pth
  python -m scripts.recipes evaluate report --backbone squeezenet1_1-b8a52dc0.pth"""

OLD, NEW = Path("options/tiny"), Path("options/tiny2")
KEPT_APART_RECIPE = Path("options/teaching/tiny2_kept_apart.yml")
KEPT_APART = Path("experiments/tiny2_cache/kept_apart/index.json")
RESULTS = Path("docs/quality/recipes.json")
PAGE = Path("docs/quality.md")
MARKS = ("<!-- begin: written by scripts/recipes.py -->", "<!-- end: recipes -->")
RUNS = "recipe_"
DIGITS = {"psnr": 2, "lpips_squeeze": 4, "niqe": 2, "grid": 1}
LOWER_IS_BETTER = {"lpips_squeeze", "niqe", "grid"}


@dataclass(frozen=True)
class Variant:
    """A short training.

    Attributes:
        options: option file that it changes.
        iterations: about as many as the budget allows.
        changes: of options.
        g: variant whose network is the frozen g of stage two.
        weights_of: variant that this one is the same training of, tested otherwise.
        noise: noise weight in place of the method's, from condition and ground truth, both in [-1, 1].
        reference: variant that it is compared with.
    """

    about: str
    options: Path
    iterations: int
    changes: tuple[str, ...] = ()
    g: str | None = None
    weights_of: str | None = None
    noise: Callable[[UPSR, Condition, Tensor], Tensor] | None = None
    reference: str | None = None


def of_true_error(method: UPSR, cond: Condition, gt: Tensor) -> Tensor:
    """Eq. 17 of the error that g really makes, which no map can know: a bound for what a learned one gains."""
    uncertainty = method.sampling.uncertainty
    return uncertainty.weight(uncertainty.uncertainty(cond.y_hat, gt))


def everywhere_alike(method: UPSR, cond: Condition, gt: Tensor) -> Tensor:
    """As much noise as the method's map gives, everywhere the same."""
    return torch.full_like(cond.weight, float(cond.weight.mean()))


VARIANTS = {
    "g_old": Variant("g: UPSR-tiny's recipe (mild degradation, L1)", OLD / "stage1.yml", 900),
    "g_photos": Variant(
        "g: full degradation, L1 + LPIPS, GridLoss, photos alone",
        NEW / "stage1.yml", 450, ("datasets.train.teacher_share=0",), reference="g_old",
    ),
    "g_half": Variant(
        "g: the same without GridLoss, half of the targets from the teacher",
        NEW / "stage1.yml", 450, ("train.grid_opt=null",), reference="g_old",
    ),
    "g_grid": Variant("g: with GridLoss, half of the targets from the teacher", NEW / "stage1.yml", 450, reference="g_old"),
    "g_teacher": Variant(
        "g: with GridLoss, all targets from the teacher",
        NEW / "stage1.yml", 450, ("datasets.train.teacher_share=1",), reference="g_old",
    ),
    "g_8_blocks": Variant(
        "g: with GridLoss, half of the targets, 8 blocks",
        NEW / "stage1.yml", 520, ("network_g.num_block=8",), reference="g_old",
    ),
    "old": Variant(
        "UPSR: UPSR-tiny's recipe for both stages, restored as it ships (b_u = 0.2)", OLD / "stage2.yml", 450,
        ("uncertainty.b_u=0.2",), g="g_old", weights_of="old_0.4",
    ),
    "old_0.4": Variant("UPSR: the same, b_u = 0.4 as it is trained", OLD / "stage2.yml", 450, g="g_old"),
    "half": Variant(
        "UPSR: new recipe, half of the targets from the teacher, LPIPS 0.2", NEW / "stage2.yml", 400,
        ("datasets.train.teacher_share=0.5", "train.perceptual_opt.loss_weight=0.2"), g="g_grid", reference="old",
    ),
    "teacher": Variant(
        "UPSR: new recipe, all targets from the teacher, LPIPS 0.5, b_u = 0.4", NEW / "stage2.yml", 400, ("uncertainty.b_u=0.4",),
        g="g_grid", reference="old",
    ),
    "teacher_0.5": Variant(
        "UPSR: the same, restored with b_u = 0.5", NEW / "stage2.yml", 400, ("uncertainty.b_u=0.5",), g="g_grid",
        weights_of="teacher", reference="old",
    ),
    "teacher_0.6": Variant(
        "UPSR: the same, restored with b_u = 0.6 (chosen)", NEW / "stage2.yml", 400, ("uncertainty.b_u=0.6",), g="g_grid",
        weights_of="teacher", reference="old",
    ),
    "flat_noise": Variant(
        "UPSR: b_u = 0.6, as much noise as its map gives, everywhere the same", NEW / "stage2.yml", 400, ("uncertainty.b_u=0.6",),
        g="g_grid", weights_of="teacher", noise=everywhere_alike, reference="teacher_0.6",
    ),
    "true_error": Variant(
        "UPSR: b_u = 0.6, noise by g's true error in place of |g(y) - y| / 2", NEW / "stage2.yml", 400, ("uncertainty.b_u=0.6",),
        g="g_grid", weights_of="teacher", noise=of_true_error, reference="teacher_0.6",
    ),
    "b_u_0.6": Variant(
        "UPSR: the same, trained and restored with b_u = 0.6", NEW / "stage2.yml", 400, ("uncertainty.b_u=0.6",),
        g="g_grid", reference="old",
    ),
    "b_u_1": Variant(
        "UPSR: the same, trained and restored with b_u = 1", NEW / "stage2.yml", 400, ("uncertainty.b_u=1",),
        g="g_grid", reference="old",
    ),
}  # fmt: skip


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument(
        "do", nargs="+", metavar="train|evaluate|report|VARIANT", help=f"variants: {', '.join(VARIANTS)}"
    )
    parser.add_argument("--backbone", help="SqueezeNet's weights for LPIPS; by default fetched")
    given = parser.parse_args()
    actions = [word for word in given.do if word in ("train", "evaluate", "report")]
    names = [word for word in given.do if word not in actions]
    for name in names:
        if name not in VARIANTS:
            raise UpsrError(f"{name}: no such variant; there are {', '.join(VARIANTS)}")
    if "train" in actions:
        for name in names or VARIANTS:
            train(VARIANTS[name].weights_of or name, given.backbone)
    if "evaluate" in actions:
        evaluate_all(names or list(VARIANTS), given.backbone)
    if "report" in actions:
        report()


def weights(name: str) -> Path:
    return Path("experiments") / f"{RUNS}{VARIANTS[name].weights_of or name}" / "models" / "net_g_latest.safetensors"


def train(name: str, backbone: str | None) -> None:
    """The training of a variant, as a run of train.py on one thread."""
    variant = VARIANTS[name]
    if weights(name).is_file():
        return
    n = variant.iterations
    changes = [
        f"name={RUNS}{name}",
        "path.experiments_root=experiments",
        f"train.total_iter={n}",
        "train.warmup_iter=50",
        f"train.scheduler.milestones=[{n // 2},{3 * n // 4},{9 * n // 10}]",
        "train.ema_decay=0.99",
        "logger.save_checkpoint_freq=200",
        "logger.print_freq=50",
        *variant.changes,
    ]
    changes += ["path.pretrain_network_g=tiny"] if variant.options.parent == OLD else []
    if variant.g is not None:
        changes.append(f"path.pretrain_network_aux={weights(variant.g)}")
    if variant.options.parent == NEW and backbone:
        changes.append(f"train.perceptual_opt.backbone_path={backbone}")
    command = [sys.executable, "train.py", "-opt", str(variant.options), "--auto-resume", "--force-yml", *changes]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode:
        raise UpsrError(f"the training of {name} did not end well; its messages are above")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with atomic_write(weights(name).with_name("processor_seconds.json")) as path:
        path.write_text(json.dumps(round(seconds)), encoding="utf-8")


def evaluate_all(names: list[str], backbone: str | None) -> None:
    """Measure variants that are trained, and what they began with; :data:`RESULTS` keeps those measured before."""
    data = ValidationSet("kept apart", TaughtPairsDataset(str(KEPT_APART)), 1, 0)
    measures: dict[str, Any] = {
        "psnr": PSNR(),
        "lpips_squeeze": LPIPS("squeeze", backbone),
        "niqe": NIQE(),
        "grid": Grid(),
    }
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"values": {}, "costs": {}}
    models: dict[str, Any] = {
        "bicubic": lambda: Bicubic(4),
        "tiny": lambda: build_method(checked_model_options(str(OLD / "test.yml"))),
        **{name: lambda name=name: model_of(name) for name in names if weights(name).is_file()},
    }
    kept["crops"] = crops_of(data.dataset.keys)
    for name, make in models.items():
        known = kept["values"].setdefault(name, {})
        todo = [i for i, key in enumerate(data.dataset.keys) if key not in known]
        if not todo:
            continue
        noise = VARIANTS[name].noise if name in VARIANTS else None
        restorer = ModelRestorer(make().eval(), 0) if noise is None else GivenNoise(make().eval(), data.dataset, noise)
        found = evaluate(restorer, data, measures, Runtime(torch.device("cpu")), indices=todo)
        print(f"{name}: {found}", flush=True)
        known |= {key: {k: round(v, 6) for k, v in values.items()} for key, values in found.images.items()}
        if name in VARIANTS:
            seconds = json.loads(weights(name).with_name("processor_seconds.json").read_text(encoding="utf-8"))
            kept["costs"][name] = {"processor_seconds": seconds, "iterations": VARIANTS[name].iterations}
    kept |= {"machine": machine(torch.device("cpu")), "versions": versions()}
    kept["measures"] = {name: metric.version for name, metric in measures.items()}
    with atomic_write(RESULTS) as path:
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


class GivenNoise:
    """Restores whole crops, with the noise of :class:`ModelRestorer`, weighted by a map that may know the ground truth."""

    def __init__(
        self, method: UPSR, pairs: TaughtPairsDataset, noise: Callable[[UPSR, Condition, Tensor], Tensor]
    ) -> None:
        self.method, self.pairs, self.noise = method, pairs, noise

    @torch.inference_mode()
    def __call__(self, lq: Tensor, names: Sequence[str], watch: Watch | None = None) -> Tensor:
        """See :class:`upsr.restoring.Restorer`; nothing is shown."""
        gt = torch.stack([self.pairs[self.pairs.keys.index(name)]["gt"] for name in names])
        cond = self.method.condition(lq)
        weighted = replace(cond, weight=self.noise(self.method, cond, 2 * gt - 1))
        field = CounterNoise(0, names, self.method.facts.noise_shape(*lq.shape[-2:]), Scratch(lq.device))
        return (self.method.generate(weighted, field).clamp(-1, 1) + 1) / 2


def crops_of(keys: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Round and photo of each crop of the kept-apart cache: every round has one crop of each photo."""
    recipe = read_recipe(KEPT_APART_RECIPE)
    photos = Crops(recipe).photos
    stream = GlobalBatchSampler(len(photos), seed=recipe.manual_seed, batch_size=1, stop=len(keys))
    return {key: (sample.epoch, photos[sample.image][2]) for key, (sample,) in zip(keys, stream, strict=True)}


def model_of(name: str) -> torch.nn.Module:
    """A trained variant."""
    variant = VARIANTS[name]
    changes = [f"path.pretrain_network_g={weights(name)}", "path.strict_load_g=true", "train=null", *variant.changes]
    if variant.g is not None:
        changes.append(f"path.pretrain_network_aux={weights(variant.g)}")
    changes = [change for change in changes if not change.startswith(("datasets.", "train."))]
    return build_method(checked_model_options(str(variant.options), changes))


def report() -> None:
    """Write the table into :data:`PAGE`, between its marks."""
    page = with_text(PAGE, MARKS, "\n".join(table(read_results(RESULTS, "evaluate"))))
    with atomic_write(PAGE) as path:
        path.write_text(page, encoding="utf-8")
    print(PAGE)


def table(kept: Mapping[str, Any]) -> Iterator[str]:
    """Means, then paired differences from each variant's reference."""
    values, crops = kept["values"], kept["crops"]
    photos = len({photo for _, photo in crops.values()})
    heads = heads_of(list(DIGITS), LOWER_IS_BETTER)
    yield from top(f"{len(crops)} crops of {photos} photos kept apart", [*heads, "processor seconds"])
    about = {"bicubic": "bicubic", "tiny": "UPSR-tiny as it ships, where all begin"}
    for name in ("bicubic", "tiny", *VARIANTS):
        if name in values:
            cells = []
            for metric, digits in DIGITS.items():
                sample = describe_sample(by_round(values[name], metric, crops))
                cells.append(f"{sample.mean:.{digits}f}")
            cost = kept["costs"].get(name, {}).get("processor_seconds", "-")
            yield f"| {VARIANTS[name].about if name in VARIANTS else about[name]} | {' | '.join(cells)} | {cost} |"
    yield ""
    yield from top("photo by photo", heads)
    for name, variant in VARIANTS.items():
        if name in values and variant.reference in values:
            cells = []
            for metric, digits in DIGITS.items():
                found = compare(*(by_round(values[n], metric, crops) for n in (str(variant.reference), name)))
                mark = mark_of(found, higher_is_better=metric not in LOWER_IS_BETTER)
                cells.append(difference_of(found, digits) + mark)
            yield f"| `{name}` minus `{variant.reference}` | {' | '.join(cells)} |"
    yield ""
    yield f"Measured on {kept['machine']['cpu']}; torch {kept['versions']['torch']}."


def by_round(
    values: Mapping[str, Mapping[str, float]], metric: str, crops: Mapping[str, Sequence[Any]]
) -> dict[int, dict[str, float]]:
    """Values by round and photo: the crops of a photo are averaged first, as several seeds of an image are."""
    found: dict[int, dict[str, float]] = {}
    for key, measured in values.items():
        if metric in measured:
            number, photo = crops[key]
            found.setdefault(number, {})[photo] = measured[metric]
    return found


if __name__ == "__main__":
    sys.exit(main())
