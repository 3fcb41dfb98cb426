"""Figures of measures over the noise level, by scale or by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upsr.data.datasets import ImageFolder
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.entries import ENTRIES, make_ready, origin
from upsr.evaluation.noise_sweep import (
    NoiseSweep,
    fidelity_metrics,
    noise_levels,
    read_photos,
    restorers_of,
)
from upsr.methods.base import Method
from upsr.metrics import FID, MetricUnavailableError, SetMetric
from upsr.report.curves import MEASURES, draw_curves
from upsr.report.figures import Material
from upsr.report.panels import FigureUnavailableError

_PHOTOS, _SEED = 50, 0
_SHOWN = ("fid", "psnr", "ssim", "psnr_y", "ssim_y")


def by_noise_level(
    path: Path,
    material: Material,
    *,
    dataset: str,
    methods: Mapping[str, str],
    scales: Sequence[float],
    last: float = 0.9,
    step: float = 0.05,
    side: int = 256,
) -> None:
    """The measures of restorations of the centres of photos, a line for each scale or method.

    A method whose weights are not here is left out, and said.

    Args:
        dataset: benchmark with HR images.
        methods: entries of options/methods/ by label; their methods have knobs ``scale`` and ``noise_level``.
        last, step: noise levels, shares t / T.
        side: of the photos' centres, in pixels.

    Raises:
        FigureUnavailableError: there are no photos or no weights.
    """
    sweep = NoiseSweep(
        read_photos(_photos(dataset, material), count=material.max_images or _PHOTOS, side=side),
        fidelity_metrics(),
        (material.evaluation or path.parent) / "noise_levels",
        material.device,
        fid=_fid(),
    )
    curves, absent = {}, []
    for label, entry in methods.items():
        try:
            method, identity = _method(entry, material)
            for scale in scales:
                name = " ".join([label] * (len(methods) > 1) + [f"x{scale:g}"] * (len(scales) > 1))
                levels = noise_levels(last, step)
                curves[name] = sweep.curves(identity, restorers_of(method, scale, _SEED), scale, levels)
        except UpsrError as error:
            absent.append(f"{label}: {error}")
    if not curves:
        raise FigureUnavailableError("; ".join(absent))
    draw_curves(path, curves, {name: MEASURES[name] for name in _SHOWN})
    for line in absent:
        print(f"{path.name}: left out: {line}")


def _photos(dataset: str, material: Material) -> ImageFolder:
    try:
        opened = BENCHMARKS.read(dataset).open(material.datasets_root)
    except UpsrError as error:
        raise FigureUnavailableError(str(error)) from None
    images: ImageFolder = opened.sides()["gt"][0]
    return images


def _method(name: str, material: Material) -> tuple[Method, dict[str, Any]]:
    """An entry's method, and what its restorations depend on."""
    description = ENTRIES.read(name)
    entry = make_ready(description, material.device, None)
    restorer: Any = entry.restorer(_SEED, "", [])
    return restorer.method, {"entry": origin(description, entry), "seed": _SEED}


def _fid() -> SetMetric | None:
    """The FID, where its weights are."""
    try:
        return FID()
    except MetricUnavailableError as error:
        print(f"without FID: {error}")
        return None
