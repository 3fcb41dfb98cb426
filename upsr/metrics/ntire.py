"""The perceptual score of the NTIRE challenges: six metrics in one number."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.config.components import build
from upsr.config.schema import MetricComponent
from upsr.metrics.base import Metric, MetricUnavailableError
from upsr.metrics.iqa import NIQE, PyIQA
from upsr.provenance import digest_of

_OWN: dict[str, dict[str, Any]] = {
    "lpips": {"type": "LPIPS", "net": "alex"},
    "dists": {"type": "DISTS"},
    "clipiqa": {"type": "CLIPIQA"},
    "maniqa": {"type": "MANIQA"},
    "musiq": {"type": "MUSIQ"},
}
"""The terms but NIQE as components of this package."""
_DIGITS_OF_DIGEST = 12


@METRIC_REGISTRY.register()
class NTIREScore:
    """(1 - LPIPS) + (1 - DISTS) + CLIP-IQA + MANIQA + MUSIQ / 100 + max(0, (10 - NIQE) / 10); from 0 to about 6.

    The perceptual track of the NTIRE 2025 challenge on image super-resolution (x4) ranks by it (arXiv 2504.14582). Each term is
    on RGB, LPIPS on AlexNet.

    Args:
        parts: all terms by pyiqa under its default names, or by LPIPS, DISTS, CLIPIQA, MANIQA and MUSIQ of this package, which
            find their weights as they do alone. NIQE is pyiqa's in both, with the authors' parameters.

    Raises:
        MetricUnavailableError: terms cannot be had, because pyiqa or their weights are missing; the message names all of them.
    """

    needs_reference = True
    higher_is_better = True

    def __init__(self, parts: Literal["pyiqa", "upsr"] = "pyiqa") -> None:
        self.parts = parts
        self._parts = _made(_by_pyiqa() if parts == "pyiqa" else _by_this_package())

    @property
    def version(self) -> str:
        """Package, version and name; of terms of this package also a digest of their versions, which name their weights."""
        if self.parts == "pyiqa":
            return f"pyiqa {importlib.metadata.version('pyiqa')} ntire 2025"
        digest = digest_of({name: part.version for name, part in self._parts.items()})[:_DIGITS_OF_DIGEST]
        return f"upsr {importlib.metadata.version('upsr')} ntire 2025 {digest}"

    def to(self, device: torch.device) -> NTIREScore:
        """The metric on a device."""
        self._parts = {name: part.to(device) for name, part in self._parts.items()}
        return self

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The value for (1, C, H, W) images in [0, 1].

        Raises:
            MetricUnavailableError: one of the six cannot be measured on this image.
        """
        value = {name: part(sr, gt) for name, part in self._parts.items()}
        faithful = (1 - value["lpips"]) + (1 - value["dists"])
        natural = value["clipiqa"] + value["maniqa"] + value["musiq"] / 100
        return faithful + natural + max(0.0, (10 - value["niqe"]) / 10)


def _by_pyiqa() -> dict[str, Callable[[], Metric]]:
    return {**{name: functools.partial(PyIQA, name) for name in _OWN}, "niqe": NIQE}


def _by_this_package() -> dict[str, Callable[[], Metric]]:
    components = {name: MetricComponent.model_validate(options) for name, options in _OWN.items()}
    made = {name: functools.partial(build, METRIC_REGISTRY, component) for name, component in components.items()}
    return {**made, "niqe": NIQE}


def _made(makers: Mapping[str, Callable[[], Metric]]) -> dict[str, Metric]:
    found, missing = {}, []
    for name, make in makers.items():
        try:
            found[name] = make()
        except MetricUnavailableError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise MetricUnavailableError(f"NTIREScore lacks {len(missing)} of {len(makers)} terms: {'; '.join(missing)}")
    return found
