"""The paper's ablations at the size of UPSR-tiny: train every variant, evaluate it, and write docs/ablations.md.

Each variant is an option file in options/tiny/ablation/ and is trained for the same number of iterations from the same seeds,
with the shipped g. Training and evaluation go on where they were when they are started again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from scripts.markdown import by_seed, difference_of, heads_of, mark_of, mean_of, read_results, top
from upsr.arguments import ArgumentParser, add_datasets_root, default_launcher
from upsr.atomic import atomic_write
from upsr.engine.distributed import runtime
from upsr.engine.setup import checked_model_options
from upsr.errors import UpsrError, exiting
from upsr.evaluation.plan import Plan
from upsr.evaluation.results import read_rows, read_summary
from upsr.evaluation.session import run_evaluation
from upsr.evaluation.statistics import compare
from upsr.methods import Method, build_method
from upsr.methods.bicubic.method import Bicubic
from upsr.restoring import restore
from upsr.timing import timed

EXAMPLES = """examples:
  python scripts/ablations.py train evaluate report                   everything, some hours on two cores
  python scripts/ablations.py train --variants unw unw_sr --seeds 0   one part of it
  python scripts/ablations.py report                                  docs/ablations.md from docs/ablations/results.json alone"""

OPTIONS = Path("options/tiny")
RESULTS = Path("docs/ablations/results.json")
PAGE = Path("docs/ablations.md")
WORK = Path("results/ablations")

METRICS = {"psnr": 2, "ssim": 4, "gmsd": 4, "fsim": 4, "nlpd": 3, "niqe": 2, "piqe": 1}
"""Digits shown, by metric: those of pyiqa that need no fetched weights, are quick, and suit photos of this size."""
LOWER_IS_BETTER = {"gmsd", "nlpd", "niqe", "piqe"}


@dataclass(frozen=True)
class Variant:
    """A line of a table.

    Attributes:
        trained: option file under :data:`OPTIONS` that trains it, without suffix; ``None`` for what is there already.
        tested: option file that it is tested with; by default the same. Neither: a method of options/methods/.
        changes: of options in the test alone.
        seeds: it is trained with the first so many.
    """

    about: str
    trained: str | None
    tested: str | None = None
    changes: tuple[str, ...] = ()
    seeds: int = 1

    @property
    def option_file(self) -> str | None:
        """Option file of the test."""
        name = self.tested or self.trained
        return None if name is None else str(OPTIONS / f"{name}.yml")


@dataclass(frozen=True)
class Group:
    """A question: a table of variants, and what the paper says or a reader must know.

    Attributes:
        reference: the variant that the others are compared with.
    """

    title: str
    variants: tuple[str, ...]
    note: str = ""
    reference: str = "unw_sr"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper on two variants that can be measured here: ``better`` has the better ``metric``."""

    text: str
    better: str
    worse: str
    dataset: str
    metric: str


VARIANTS = {
    "unw_sr": Variant(
        "the full method: UNW, condition on g(y), b_u = 0.4, T = 5, MSE + wavelets", "ablation/unw_sr", seeds=3
    ),
    "unw": Variant("UNW, no condition on g(y)", "ablation/unw", seeds=3),
    "neither": Variant("neither", "ablation/neither", seeds=3),
    "bu_0.0": Variant("b_u = 0", "ablation/bu_0.0", seeds=3),
    "bu_1.0": Variant("b_u = 1", "ablation/bu_1.0", seeds=3),
    "posterior": Variant(
        "posterior sampler (Eq. 8)", "ablation/unw_sr", changes=("diffusion.sampler.type=posterior",), seeds=3
    ),
    "steps_1": Variant("T = 1", "ablation/steps_1"),
    "steps_3": Variant("T = 3", "ablation/steps_3"),
    "steps_15": Variant("T = 15", "ablation/steps_15"),
    "loss_mse": Variant("MSE alone", "ablation/loss_mse"),
    "loss_coefficients": Variant("MSE + wavelet coefficients", "ablation/loss_coefficients"),
    "loss_mild": Variant("MSE + coefficients + 0.25 energies", "ablation/loss_mild"),
    "estimate_image": Variant("the denoiser gives the image", "ablation/estimate_image"),
    "size_narrow": Variant("1.3 M parameters", "ablation/size_narrow"),
    "size_wide": Variant("7.5 M parameters", "ablation/size_wide"),
    "bicubic": Variant("bicubic upsampling", None),
    "g": Variant("g alone", None, "stage1", ("path.pretrain_network_g=tiny",)),
    "tiny": Variant("UPSR-tiny, 5 steps", None, "test"),
    "tiny_bu_0.4": Variant("UPSR-tiny, b_u = 0.4 as in its training", None, "test", ("uncertainty.b_u=0.4",)),
    "tiny_3": Variant("UPSR-tiny, 3 of its steps", None, "test", ("diffusion.sampler.steps=3",)),
    "tiny_1": Variant("UPSR-tiny, 1 of its steps", None, "test", ("diffusion.sampler.steps=1",)),
    "one_step": Variant("its one-step student", "one_step", "test_one_step"),
}

GROUPS = (
    Group(
        "Table 1: noise weighting (UNW) and the condition on g(y)",
        ("neither", "unw", "unw_sr"),
        "The paper: on RealSR, UNW improves NIQE from 4.49 to 4.18 and costs 0.06 dB of PSNR; the condition then adds 0.32 dB "
        "and improves NIQE to 4.02. On RealSet65 NIQE goes from 4.42 to 4.22 and 4.24.",
    ),
    Group(
        "Table 5: offset b_u of the noise weight",
        ("bu_0.0", "unw_sr", "bu_1.0"),
        "The paper: 0.4 is best in every metric; NIQE on RealSet65 is 4.84 (0), 4.24 (0.4), 4.58 (1).",
    ),
    Group("Steps T of the schedule, each trained", ("steps_1", "steps_3", "unw_sr", "steps_15")),
    Group("Sampler", ("unw_sr", "posterior"), "The paper samples by Eq. 8; the released code is deterministic."),
    Group(
        "What stands in for LPIPS",
        ("loss_mse", "loss_coefficients", "loss_mild", "unw_sr"),
        "The wavelet term of the full method has coefficients and local energies at the same weight.",
    ),
    Group("What the denoiser gives", ("estimate_image", "unw_sr")),
    Group("Size of the denoiser", ("size_narrow", "unw_sr", "size_wide")),
    Group(
        "The shipped UPSR-tiny, fewer steps, and one-step distillation",
        ("bicubic", "g", "tiny", "tiny_bu_0.4", "tiny_3", "tiny_1", "one_step"),
        reference="tiny",
    ),
)

PAIRS, PHOTOS = "BSD100-degraded", "RealSet65-crops"
CLAIMS = (
    Claim("UNW improves NIQE on real photos", "unw", "neither", PHOTOS, "niqe"),
    Claim("UNW costs little PSNR: without it PSNR is higher", "neither", "unw", PAIRS, "psnr"),
    Claim("the condition on g(y) raises PSNR", "unw_sr", "unw", PAIRS, "psnr"),
    Claim("the condition on g(y) improves NIQE where there is a ground truth", "unw_sr", "unw", PAIRS, "niqe"),
    Claim("b_u = 0.4 has a better NIQE than 0 on real photos", "unw_sr", "bu_0.0", PHOTOS, "niqe"),
    Claim("b_u = 0.4 has a better NIQE than 1 on real photos", "unw_sr", "bu_1.0", PHOTOS, "niqe"),
)


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("action", nargs="+", choices=["train", "evaluate", "report"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings (0 1 2)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of them (all)")
    add_datasets_root(parser)
    parser.add_argument("--max-images", type=int, default=8, help="of each set (8)")
    given = parser.parse_args()
    if "train" in given.action:
        train_all(given.variants, given.seeds)
    if "evaluate" in given.action:
        evaluate_all(given.variants, given.seeds, given.datasets_root, given.max_images)
    if "report" in given.action:
        report()


def runs_of(variants: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Variants with the seeds that they are trained with, seed by seed."""
    for i, seed in enumerate(seeds):
        yield from ((name, seed) for name in variants if i < VARIANTS[name].seeds)


def train_all(variants: Sequence[str], seeds: Sequence[int]) -> None:
    """Every training that the variants need, as runs of train.py."""
    wanted = dict.fromkeys((VARIANTS[name].trained, seed) for name, seed in runs_of(variants, seeds))
    for options, seed in wanted:
        if options is None or weights(options, seed).is_file():
            continue
        command = [sys.executable, "train.py", "-opt", str(OPTIONS / f"{options}.yml"), "--auto-resume"]
        changes = [f"name={run_name(options, seed)}", f"manual_seed={seed}"]
        if subprocess.run([*command, "--force-yml", *changes], check=False).returncode:
            raise UpsrError(f"the training of {options} with seed {seed} did not end well; its messages are above")


def run_name(options: str, seed: int) -> str:
    return f"{options.replace('/', '_')}_seed{seed}"


def weights(options: str, seed: int) -> Path:
    return Path("experiments") / run_name(options, seed) / "models" / "net_g_latest.safetensors"


def evaluate_all(variants: Sequence[str], seeds: Sequence[int], datasets_root: Path, max_images: int) -> None:
    """Every variant on both sets, by the evaluation of this project; writes :data:`RESULTS`."""
    methods = {(name, seed): describe(name, seed) for name, seed in runs_of(variants, seeds)}
    plan = Plan(
        datasets=(PAIRS, PHOTOS),
        methods=tuple(methods.values()),
        protocols=("strict",),
        metrics=tuple(METRICS),
        folder=WORK,
        datasets_root=datasets_root,
        max_images=max_images,
        save_images=False,
    )
    with runtime(default_launcher(), num_gpu=0) as run:
        run_evaluation(plan, run)
        if run.is_main:
            keep_results(methods)


def keep_results(methods: Mapping[tuple[str, int], str]) -> None:
    """Write :data:`RESULTS` from the evaluation's folder."""
    summary = read_summary(WORK)
    values: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(dict))))
    places = {Path(method).stem: place for place, method in methods.items()}
    for row in read_rows(WORK):
        if row.method in places:
            name, seed = places[row.method]
            values[row.dataset][row.metric][name][seed][row.image] = float(f"{row.value:.6g}")
    kept = {
        "machine": summary["machine"],
        "versions": summary["versions"],
        "measures": summary["measures"],
        "iterations": yaml.safe_load((OPTIONS / "ablation/unw_sr.yml").read_text())["train"]["total_iter"],
        "costs": {name: cost(name) for name, _ in methods},
        "values": values,
    }
    with atomic_write(RESULTS) as path:
        path.write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


def cost(name: str) -> dict[str, float]:
    """Parameters of a variant, g's among them, and seconds for a photo of 256 x 256."""
    model: Method = Bicubic(scale=4)
    if (option_file := VARIANTS[name].option_file) is not None:
        random = ["path.pretrain_network_g=null", "path.allow_random_weights=true"]
        model = build_method(checked_model_options(option_file, [*VARIANTS[name].changes, *random])).eval()
    lq = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seconds = timed(lambda: restore(model, lq, seed=0, names=["photo"]), lq.device, repeats=5).median
    return {"parameters": sum(p.numel() for p in model.parameters()), "seconds": round(seconds, 3)}


def describe(name: str, seed: int) -> str:
    """A method for one trained variant: the path of its description, or a name."""
    variant = VARIANTS[name]
    if variant.option_file is None:
        return name
    force = list(variant.changes)
    if variant.trained is not None:
        force.append(f"path.pretrain_network_g={weights(variant.trained, seed)}")
    make = {"type": "OptionFile", "opt": variant.option_file, "force_yml": force}
    path = WORK / "methods" / f"{name}-seed{seed}.yml"
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump({"about": variant.about, "make": make}), encoding="utf-8")
    return str(path)


def report() -> None:
    """:data:`PAGE` from :data:`RESULTS`."""
    kept = read_results(RESULTS, "train evaluate")
    with atomic_write(PAGE) as path:
        path.write_text("\n".join(page(kept)) + "\n", encoding="utf-8")
    print(PAGE)


def page(kept: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the Markdown page."""
    images = ", ".join(f"{number_of_images(by_metric)} of {name}" for name, by_metric in kept["values"].items())
    yield from (
        "# The paper's ablations at tiny scale",
        "",
        "Written by `python scripts/ablations.py report` from `docs/ablations/results.json`; do not edit.",
        "",
        f"UPSR-tiny's denoiser and the shipped g, {kept['iterations']} iterations of 4 crops for each variant and seed "
        f"(`options/tiny/ablation/`), {kept['machine']['cpu']}, {kept['machine']['threads']} thread(s). Images: {images}; "
        "protocol `strict`. A cell is the mean over the images (seeds averaged first) with half the width of its 95 % t "
        "interval over the images; ▲ (better) and ▼ (worse) mark paired differences from the table's reference that are beyond "
        "chance: their "
        "95 % interval leaves out 0. The reference is the full method, in the last table UPSR-tiny. The learned metrics of the "
        "paper (CLIPIQA, MUSIQ, MANIQA, LPIPS) need weights that could not be had where this was run.",
        "",
        "These are trainings of minutes, not days: what they show is whether an effect is there at this scale.",
        "",
        "## What the paper says, and what comes out here",
        "",
        "| the paper | measured on | difference | here |",
        "|---|---|---:|---|",
    )
    for claim in CLAIMS:
        yield claim_line(claim, kept["values"][claim.dataset][claim.metric])
    for group in GROUPS:
        yield from ("", f"## {group.title}", "")
        for dataset, by_metric in kept["values"].items():
            yield from table(group, dataset, by_metric, kept["costs"])
        if group.note:
            yield group.note


def number_of_images(by_metric: Mapping[str, Any]) -> int:
    """Of a dataset, as measured without a reference."""
    return len(next(iter(by_metric["niqe"]["unw_sr"].values())))


def claim_line(claim: Claim, values: Mapping[str, Any]) -> str:
    """A line of the table of claims."""
    found = compare(by_seed(values[claim.worse]), by_seed(values[claim.better]))
    sign = -1 if claim.metric in LOWER_IS_BETTER else 1
    verdict = "not decided: the interval holds 0"
    if found.decided:
        verdict = "agrees" if sign * found.difference > 0 else "**disagrees**"
    where = f"{claim.metric} on {claim.dataset}, `{claim.better}` minus `{claim.worse}`"
    return f"| {claim.text} | {where} | {difference_of(found, METRICS[claim.metric])} | {verdict} |"


def table(group: Group, dataset: str, by_metric: Mapping[str, Any], costs: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one table."""
    metrics = [metric for metric in METRICS if metric in by_metric]
    yield from top(dataset, [*heads_of(metrics, LOWER_IS_BETTER), "s / photo"])
    for name in group.variants:
        if any(name in by_metric[metric] for metric in metrics):
            cells = [cell(name, metric, by_metric[metric], group.reference) for metric in metrics]
            seeds = len(by_metric[metrics[-1]][name])
            about = VARIANTS[name].about + (f" ({seeds} seeds)" if seeds > 1 else "")
            yield f"| {about} | {' | '.join(cells)} | {costs[name]['seconds']:.2f} |"
    yield ""


def cell(name: str, metric: str, values: Mapping[str, Any], reference: str) -> str:
    """Mean, half width of its interval, and how it compares with the reference."""
    return mean_of(by_seed(values[name]), METRICS[metric]) + arrow(name, metric, values, reference)


def arrow(name: str, metric: str, values: Mapping[str, Any], reference: str) -> str:
    """Mark of a difference from the reference, with the seeds that both have."""
    if name == reference:
        return ""
    own = by_seed(values[name])
    full = {seed: images for seed, images in by_seed(values[reference]).items() if seed in own}
    return mark_of(compare(full, own), higher_is_better=metric not in LOWER_IS_BETTER)


if __name__ == "__main__":
    sys.exit(main())
