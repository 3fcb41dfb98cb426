"""The figures of the DM-SR paper that show whether the predicted noise is Gaussian, and whether it depends on the image."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from upsr.atomic import atomic_write
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.methods.dmsr.figures import NoiseDistribution
from upsr.report.figures import Material
from upsr.report.panels import FigureUnavailableError, panels

_IMAGES, _SHOWN = 100, 4.0


def distribution(
    path: Path, material: Material, *, dataset: str, methods: Mapping[str, str], cell: Sequence[int] | None = None
) -> None:
    """Histogram and Q-Q plot of the predicted noise, and the histogram at one cell over the images; numbers in a file beside it.

    The file has the name of the figure and ends in ``.csv``. Values beyond 4 are drawn at 4. The paper says neither for
    which images nor for which cell.

    Args:
        dataset: benchmark of whose LR images the centres are taken.
        methods: entries of options/methods/ by label, each a DM-SR.
        cell: row and column in the latent of a tile; by default the middle.

    Raises:
        FigureUnavailableError: there are no weights, or fewer than two images.
    """
    found = {label: _measured(replace(material, method=name), dataset) for label, name in methods.items()}
    rows, columns = next(iter(found.values())).values.shape[-2:]
    row, column = cell or (rows // 2, columns // 2)
    axes, finish = panels(3, height=3.4)
    x = np.linspace(-_SHOWN, _SHOWN, 201)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    for label, noise in found.items():
        for axis, values, bins in ((axes[0], noise.values, 81), (axes[2], noise.at((row, column)), 25)):
            edges = np.linspace(-_SHOWN, _SHOWN, bins)
            axis.hist(values.ravel().clip(-_SHOWN, _SHOWN), bins=edges, density=True, alpha=0.5, label=label)
        axes[1].plot(*noise.quantiles(), marker=".", markersize=3, linestyle="none", label=label)
    for axis in (axes[0], axes[2]):
        axis.plot(x, density, color="black", linewidth=1, label="standard normal")
        axis.set(xlabel="predicted noise", ylabel="density")
    axes[1].plot(x, x, color="black", linewidth=1)
    axes[1].set(xlabel="quantiles of the standard normal", ylabel="quantiles of the noise", title="Q-Q plot")
    axes[0].set_title(f"all cells, {dataset}")
    axes[2].set_title(f"cell ({row}, {column}) of {len(next(iter(found.values())).values)} images")
    for axis in axes:
        axis.legend(fontsize=6)
    finish(path)
    lines = [
        {"method": methods[label], "dataset": dataset, "cell": f"{row} {column}", **noise.statistics((row, column))}
        for label, noise in found.items()
    ]
    with atomic_write(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _rounded(value) for key, value in line.items()} for line in lines)


def _measured(material: Material, dataset: str) -> NoiseDistribution:
    """The noise that the material's method predicts for the first images of a benchmark."""
    try:
        opened = BENCHMARKS.read(dataset).open(material.datasets_root)
    except UpsrError as error:
        raise FigureUnavailableError(str(error)) from None
    restorer: Any = material.restorer()
    noise, count = NoiseDistribution(restorer.method), min(len(opened), material.max_images or _IMAGES)
    if count < 2:
        raise FigureUnavailableError(f"{dataset}: one image; the differences between images need two")
    for item in itertools.islice(material.items(opened), count):
        noise.add(item["lq"][None].to(material.device))
    return noise


def _rounded(value: Any) -> Any:
    return round(float(value), 5) if isinstance(value, float) else value
