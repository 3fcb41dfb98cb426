"""The paper's ablations at the size of UPSR-tiny: train every variant, evaluate, and write docs/ablations.md.

Each variant is an option file in options/tiny/ablation/ and is trained for the same number of iterations from the same seeds,
with the shipped g. Training and evaluation go on where they were when they are started again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from upsr.atomic import atomic_write
from upsr.engine.distributed import Runtime
from upsr.errors import UpsrError
from upsr.evaluation.results import read_summary
from upsr.evaluation.session import Plan, run_evaluation

EXAMPLES = """examples:
  python scripts/ablations.py train evaluate report --iterations 400 --seeds 0 1 2
  python scripts/ablations.py report                    docs/ablations.md from docs/ablations/results.json alone"""

OPTIONS = Path("options/tiny/ablation")
RESULTS = Path("docs/ablations/results.json")
PAGE = Path("docs/ablations.md")
VARIANTS = ("neither", "unw", "unw_sr", "bu_0.0", "bu_1.0", "steps_1", "steps_3", "steps_15")
FEWER_CALLS = (1, 2, 3, 4)
"""Network calls of the full method's 5-step model, sampled with fewer."""

GROUPS = {
    "Table 1: noise weighting (UNW) and the condition on g(y)": ("neither", "unw", "unw_sr"),
    "Table 5: offset b_u of the noise weight": ("bu_0.0", "unw_sr", "bu_1.0"),
    "Steps of the schedule, each trained": ("steps_1", "steps_3", "unw_sr", "steps_15"),
    "Fewer calls of the 5-step model": (*(f"calls_{n}" for n in FEWER_CALLS), "unw_sr"),
    "Sampler": ("unw_sr", "posterior"),
}
PAPER = {
    "Table 1: noise weighting (UNW) and the condition on g(y)": "UNW improves CLIPIQA, MUSIQ, MANIQA and NIQE (4.49 to 4.18 on "
    "RealSR) for 0.06 dB of PSNR; the condition then adds 0.32 dB and improves NIQE to 4.02.",
    "Table 5: offset b_u of the noise weight": "b_u = 0.4 is best in every metric; NIQE 4.74 (b_u = 0), 4.02 (0.4), 4.40 (1).",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="+", choices=["train", "evaluate", "report"])
    parser.add_argument("--iterations", type=int, default=400, help="of each training (400)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings (0 1 2)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of them (all)")
    parser.add_argument("--datasets", nargs="+", default=["BSD100-degraded", "RealSet65"])
    parser.add_argument("--datasets_root", type=Path, default=Path("datasets"))
    parser.add_argument("--max_images", type=int, default=30, help="of each set (30)")
    given = parser.parse_args()
    try:
        for action in given.action:
            {"train": train_all, "evaluate": evaluate_all, "report": report}[action](given)
    except UpsrError as error:
        print(f"{error.label}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def train_all(given: argparse.Namespace) -> None:
    """Every variant with every seed, as real runs of train.py; the rate falls at 50, 75 and 90 % of the iterations."""
    for seed in given.seeds:
        for variant in given.variants:
            milestones = [int(given.iterations * share) for share in (0.5, 0.75, 0.9)]
            changes = [f"name={run_name(variant, seed, given.iterations)}", f"manual_seed={seed}",
                       f"train.total_iter={given.iterations}", "train.warmup_iter=40", "logger.save_checkpoint_freq=100",
                       f"train.scheduler.milestones={milestones}", "train.ema_decay=0.98"]  # fmt: skip
            if weights(variant, seed, given.iterations).is_file():
                continue
            command = [sys.executable, "train.py", "-opt", str(OPTIONS / f"{variant}.yml"), "--auto_resume"]
            if subprocess.run([*command, "--force_yml", *changes], check=False).returncode:
                raise UpsrError(f"the training of {variant} with seed {seed} did not end well; its messages are above")


def evaluate_all(given: argparse.Namespace) -> None:
    """Every model on every set; writes :data:`RESULTS`."""
    folder = Path("results/ablations")
    names = {}
    for seed in given.seeds:
        for variant in given.variants:
            names[variant, seed] = describe(folder, variant, variant, seed, given.iterations)
        for calls in FEWER_CALLS:
            change = f"diffusion.sampler.steps={calls}"
            names[f"calls_{calls}", seed] = describe(folder, f"calls_{calls}", "unw_sr", seed, given.iterations, change)
        change = "diffusion.sampler.type=posterior"
        names["posterior", seed] = describe(folder, "posterior", "unw_sr", seed, given.iterations, change)
    plan = Plan(
        datasets=tuple(given.datasets),
        methods=tuple(str(path) for path in names.values()),
        protocols=("upsr",),
        metrics=("psnr", "ssim", "niqe"),
        folder=folder,
        datasets_root=given.datasets_root,
        max_images=given.max_images,
        save_images=False,
    )
    run_evaluation(plan, Runtime(torch.device("cpu")))
    summary = read_summary(folder)
    kept = {
        "iterations": given.iterations,
        "seeds": given.seeds,
        "machine": summary["machine"],
        "versions": summary["versions"],
        "images": {name: facts["evaluated"] for name, facts in summary["datasets"].items()},
        "results": [
            _entry(r, *place) for place, path in names.items() for r in summary["results"] if r["method"] == path.stem
        ],
    }
    with atomic_write(RESULTS) as path:
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _entry(result: Mapping[str, Any], variant: str, seed: int) -> dict[str, Any]:
    return {"variant": variant, "seed": seed} | {
        key: result[key] for key in ("dataset", "metric", "mean", "low", "high")
    }


def report(given: argparse.Namespace) -> None:
    """:data:`PAGE` from :data:`RESULTS`."""
    try:
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UpsrError(f"{RESULTS}: no results; run `train evaluate` first") from None
    with atomic_write(PAGE) as path:
        path.write_text(page(kept), encoding="utf-8")
    print(PAGE)


def page(kept: Mapping[str, Any]) -> str:
    """The Markdown page."""
    images = ", ".join(f"{count} of {name}" for name, count in kept["images"].items())
    lines = [
        "# The paper's ablations at tiny scale",
        "",
        "Written by `python scripts/ablations.py report` from `docs/ablations/results.json`; do not edit.",
        "",
        f"UPSR-tiny's denoiser, {kept['iterations']} iterations each, training seeds {', '.join(map(str, kept['seeds']))}, with "
        f"the shipped g; images: {images}; protocol `upsr`. A cell is the mean over the seeds, its standard deviation over "
        "them, and in brackets the half width of the 95 % bootstrap interval over the images. Learned metrics cannot be had "
        "offline.",
    ]
    for title, variants in GROUPS.items():
        columns = sorted(
            {(r["dataset"], r["metric"]) for r in kept["results"]}, key=lambda c: (c[0], "psnr ssim niqe".find(c[1]))
        )
        lines += ["", f"## {title}", ""]
        lines += [f"| variant | {' | '.join(f'{d} {m}' for d, m in columns)} |", "|---" + "|---:" * len(columns) + "|"]
        for variant in variants:
            own = [r for r in kept["results"] if r["variant"] == variant]
            if own:
                lines.append(f"| {variant} | {' | '.join(cell(own, *column) for column in columns)} |")
        if title in PAPER:
            lines += ["", f"The paper: {PAPER[title]}"]
    return "\n".join(lines) + "\n"


def cell(results: Sequence[Mapping[str, Any]], dataset: str, metric: str) -> str:
    """Mean over the seeds and how sure it is."""
    own = [r for r in results if (r["dataset"], r["metric"]) == (dataset, metric)]
    if not own:
        return "-"
    digits = {"psnr": 2, "ssim": 4}.get(metric, 2)
    means = [r["mean"] for r in own]
    spread = statistics.stdev(means) if len(means) > 1 else math.nan
    half = statistics.mean((r["high"] - r["low"]) / 2 for r in own)
    return f"{statistics.mean(means):.{digits}f} ± {spread:.{digits}f} ({half:.{digits}f})"


def run_name(variant: str, seed: int, iterations: int) -> str:
    return f"ablation_{variant}_seed{seed}_{iterations}"


def weights(variant: str, seed: int, iterations: int) -> Path:
    return Path("experiments") / run_name(variant, seed, iterations) / "models" / "net_g_latest.safetensors"


def describe(folder: Path, name: str, variant: str, seed: int, iterations: int, *changes: str) -> Path:
    """A method's description for one trained model."""
    force = [f"path.pretrain_network_g={weights(variant, seed, iterations)}", "datasets.train=null", *changes]
    make = {"type": "OptionFile", "opt": str(OPTIONS / f"{variant}.yml"), "force_yml": force}
    path = folder / "methods" / f"{name}-seed{seed}.yml"
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump({"about": name, "make": make}), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
