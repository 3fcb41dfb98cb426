"""The perceptual score of the NTIRE challenges: six metrics of pyiqa in one number."""

from __future__ import annotations

import importlib.metadata

import torch
from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.metrics.base import Metric
from upsr.metrics.iqa import NIQE, PyIQA


@METRIC_REGISTRY.register()
class NTIREScore:
    """(1 - LPIPS) + (1 - DISTS) + CLIP-IQA + MANIQA + MUSIQ / 100 + max(0, (10 - NIQE) / 10); from 0 to about 6.

    The perceptual track of the NTIRE 2025 challenge on image super-resolution (x4) ranks by it (arXiv 2504.14582). Each term is
    pyiqa's under its default name, on RGB, LPIPS on AlexNet; NIQE has the authors' parameters.

    Raises:
        MetricUnavailableError: pyiqa is not installed or cannot get the weights of one of the six.
    """

    needs_reference = True
    higher_is_better = True

    def __init__(self) -> None:
        self._parts: dict[str, Metric] = {
            **{name: PyIQA(name) for name in ("lpips", "dists", "clipiqa", "maniqa", "musiq")},
            "niqe": NIQE(),
        }

    @property
    def version(self) -> str:
        """Package, version and name."""
        return f"pyiqa {importlib.metadata.version('pyiqa')} ntire 2025"

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
