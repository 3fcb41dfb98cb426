"""Noise levels for each scale: measures restorations of photos, and finds where they are sharp and keep their content.

For each scale s and noise level t / T the method restores bicubic reductions of the photos, always with the same noise, and
their PSNR, SSIM, LPIPS, their error below the frequency 1 / (2 s) and their energy above it are recorded. The Perceptual
Recoverable Field is the range of levels at which there is enough of that energy and LPIPS (without its weights: that error) is
no worse than that of the upsampled image. Works with any method that has the settings scale and noise_level.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from upsr.arguments import add_model, model_of, path
from upsr.atomic import atomic_write, writable_folder
from upsr.data.datasets import ImageFolder
from upsr.errors import UpsrError
from upsr.evaluation.noise_sweep import Curves, NoiseSweep, fidelity_metrics, noise_levels, read_photos, restorers_of
from upsr.evaluation.prediction_error import prediction_errors, recovery_error
from upsr.evaluation.recoverable_field import RecoverableField, recoverable_field
from upsr.metrics import FID, LPIPS, MetricUnavailableError
from upsr.metrics.iqa import metric_weights_folder
from upsr.pipeline.files import load_model
from upsr.pipeline.hardware import usable_device
from upsr.provenance import digest_of, weights_digest
from upsr.report.curves import FORMULA, MEASURES, draw_curves
from upsr.report.panels import FigureUnavailableError

EXAMPLES = """examples:
  upsr METHOD calibrate weights/ --images photos/ -o results/calibration
  upsr METHOD calibrate experiments/mine --images photos/ --scales 2 3 --last 0.6 --steps 20 --device cuda
  upsr METHOD calibrate weights/ --images photos/ --metric-weights metrics/ --lpips squeeze

Writes OUT/calibration.json with each scale's t_lo, t_star, t_hi and curves; where matplotlib is installed OUT/curves.png and
OUT/formula.png; and OUT/journal/, by which an interrupted run goes on and a second one with more scales or photos measures
only what is new.
The paper's formula for the two losses is written beside them, as a diagnostic."""

_FILE = "calibration.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a method's command ``calibrate``."""
    add_model(parser, positional=True)
    parser.add_argument("--images", type=path, required=True, help="folder of HR photos that the model has not seen")
    parser.add_argument(
        "-o", "--out", type=path, default=Path("results/calibration"), help="folder (results/calibration)"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[2, 2.6, 4, 8], metavar="S", help="(2 2.6 4 8)")
    parser.add_argument("--last", type=float, default=0.9, metavar="LEVEL", help="greatest noise level t/T (0.9)")
    parser.add_argument("--step", type=float, default=0.05, metavar="LEVEL", help="between two levels (0.05)")
    parser.add_argument("--max-images", type=int, default=50, metavar="N", help="only the first photos (50)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the photos' centres (256)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--steps", type=int, metavar="N", help="network calls of a restoration (the method's)")
    parser.add_argument(
        "--hf-ratio",
        type=float,
        default=0.6,
        metavar="SHARE",
        help="least energy of high frequencies, of the photo's (0.6)",
    )
    parser.add_argument("--lpips", choices=["alex", "vgg", "squeeze"], default="alex", help="its backbone (alex)")
    parser.add_argument(
        "--fid",
        action="store_true",
        help="also FID; keeps the restored photos, and chooses t_star with 1000 photos or more",
    )
    parser.add_argument("--metric-weights", type=path, help="weights of metrics, as in torch's hub folder")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="photos at once on a GPU (1)")
    parser.add_argument("--device", default="auto", help="(auto)")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    _refuse_nonsense(given)
    device = usable_device(given.device)
    if given.metric_weights is not None:
        metric_weights_folder(given.metric_weights)
    model, config = load_model(**model_of(given))
    method: Any = model.adjusted(steps=given.steps).to(device)
    if missing := {"scale", "noise_level"} - method.knobs().keys():
        raise UpsrError(f"{given.weights}: {type(method).__name__} has no setting {' or '.join(sorted(missing))}")
    photos = read_photos(ImageFolder(str(given.images), channels=3), count=given.max_images, side=given.size)
    digests = {name: weights_digest(network) for name, network in method.parts().items()}
    identity = {"config": config, "weights": digests, "steps": given.steps, "seed": given.seed}
    sweep = _sweep(given, photos, device)
    levels = noise_levels(given.last, given.step)

    fields: dict[str, RecoverableField] = {}
    curves: dict[str, Curves] = {}
    record: dict[str, Any] = {
        "model": {"source": given.weights, "config": config, "weights": digests, "steps": given.steps},
        "schedule": _schedule(method, levels),
        "seed": given.seed,
        "images": {"folder": str(given.images), "count": len(photos), "size": given.size,
                   "sha256": digest_of({photo.name: photo.content for photo in photos})},
        "hf_ratio": given.hf_ratio,
        "scales": {},
    }  # fmt: skip
    for scale in given.scales:
        name = f"{scale:g}"
        curves[name] = sweep.curves(identity, restorers_of(method, scale, given.seed), scale, levels)
        upsampled = sweep.upsampled(scale)
        fields[name] = recoverable_field(curves[name], upsampled, hf_ratio=given.hf_ratio, photos=len(photos))
        record["scales"][name] = {**vars(fields[name]), "upsampled": upsampled, "curves": curves[name]}
        _say(name, fields[name])
        _write(given.out, record)
    errors = prediction_errors(method, sweep, identity, seed=given.seed)
    record["formula"] = recovery_error(method, sweep, errors, given.scales, levels)
    _write(given.out, record)
    _draw(given.out, curves, fields, record["formula"])
    print(f"written to {given.out / _FILE}")
    return 0


def _refuse_nonsense(given: argparse.Namespace) -> None:
    if not 0 < given.step <= given.last < 1:
        raise UpsrError(f"--last {given.last:g}, --step {given.step:g}: levels lie in 0 < step <= last < 1")
    if min(given.scales) <= 1 or len(set(given.scales)) < len(given.scales):
        raise UpsrError("--scales: give different factors above 1")
    for name in ("max_images", "size", "batch"):
        if getattr(given, name) < 1:
            raise UpsrError(f"--{name.replace('_', '-')}: give at least 1")


def _sweep(given: argparse.Namespace, photos: Any, device: torch.device) -> NoiseSweep:
    metrics = fidelity_metrics()
    fid = None
    try:
        metrics["lpips"] = LPIPS(given.lpips).to(device)
    except MetricUnavailableError as error:
        print(f"without LPIPS, so the signature loss is the error of low frequencies: {error}")
    if given.fid:
        try:
            fid = FID()
        except MetricUnavailableError as error:
            print(f"without FID: {error}")
    return NoiseSweep(photos, metrics, writable_folder(given.out), device, batch_size=given.batch, fid=fid)


def _schedule(method: Any, levels: list[float]) -> dict[str, Any]:
    """The process's length, and alpha-bar at the levels."""
    steps = method.process.num_timesteps
    at = torch.tensor([min(round(level * steps), steps - 1) for level in levels])
    return {"timesteps": steps, "alpha_bar": method.process.alpha_bar(at).tolist()}


def _say(name: str, field: RecoverableField) -> None:
    if field.t_hi is None:
        print(
            f"x{name}: warning: no level is sharp enough and no worse in {field.signature} than the upsampled image; "
            f"t_star is t_lo, {field.t_lo:g}"
        )
    else:
        print(f"x{name}: noise levels {field.t_lo:g} to {field.t_hi:g}, best {field.t_star:g} by {field.objective}")


def _draw(
    folder: Path, curves: dict[str, Curves], fields: dict[str, RecoverableField], formula: dict[str, Any]
) -> None:
    limits = {f"x{name}": (field.t_lo, field.t_hi) for name, field in fields.items()}
    predicted = {
        f"x{name}": {"t": formula["t"], **formula["signature"], **losses}
        for name, losses in formula["fidelity"].items()
    }
    try:
        draw_curves(folder / "curves.png", {f"x{name}": own for name, own in curves.items()}, MEASURES, fields=limits)
        draw_curves(folder / "formula.png", predicted, FORMULA, logarithmic=True)
    except FigureUnavailableError as error:
        print(f"curves are not drawn: {error}")


def _write(folder: Path, record: dict[str, Any]) -> None:
    with atomic_write(folder / _FILE) as file:
        file.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
