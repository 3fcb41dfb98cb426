"""The figure of the StableSR paper that shows when the LR image guides the diffusion."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.methods.stablesr.figures import ConditionStrength
from upsr.report.figures import Material
from upsr.report.panels import FigureUnavailableError, panels

_IMAGES = 8
_PARTS = {"down": "contracting half", "mid": "middle", "up": "expanding half"}
_POPULATED = 5e-2


def by_signal_to_noise(path: Path, material: Material, *, dataset: str, method: str) -> None:
    """Cosine similarity of features before and after the SFT layers over the signal-to-noise ratio, while images are restored.

    The paper says neither for which images nor how features are compared. Here a residual branch of an image is one vector, and
    means are over the layers and the first images.

    Args:
        dataset: benchmark whose LR images are restored.
        method: entry of options/methods/ that is a StableSR.

    Raises:
        FigureUnavailableError: there are no images or no weights.
    """
    try:
        opened = BENCHMARKS.read(dataset).open(material.datasets_root)
    except UpsrError as error:
        raise FigureUnavailableError(str(error)) from None
    restorer: Any = replace(material, method=method).restorer()
    strength = ConditionStrength(restorer.method)
    with strength.watching():
        for item in itertools.islice(material.items(opened), material.max_images or _IMAGES):
            restorer(item["lq"][None].to(material.device), [item["key"]])
    ratios, similarities = strength.means()
    axes, finish = panels(1, height=3.6)
    for part, title in _PARTS.items():
        rows = [i for i, name in enumerate(strength.layers) if name.startswith(part)]
        axes[0].plot(ratios, similarities[rows].mean(dim=0), linewidth=1, label=f"{title}, {len(rows)} layers")
    axes[0].plot(ratios, similarities.mean(dim=0), color="black", linewidth=2, label="all")
    axes[0].axvline(_POPULATED, color="grey", linestyle=":", label="0.05, where content appears (Choi et al., 2022)")
    axes[0].set(
        xscale="log", xlabel="signal-to-noise ratio", ylabel="cosine similarity", title=f"{method} on {dataset}"
    )
    axes[0].legend(fontsize=6)
    finish(path)
