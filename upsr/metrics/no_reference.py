"""The frame of metrics that are a network of this package with published weights, and need no ground truth."""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.archs.lpips_network import as_rgb
from upsr.archs.weights import misfits, read_weight_file, select_weights
from upsr.errors import UpsrError
from upsr.metrics.base import MetricUnavailableError
from upsr.metrics.weight_files import published_file
from upsr.provenance import weights_digest

_DIGITS_OF_DIGEST = 12


class NoReferenceMetric:
    """The score that a network gives an image.

    Args:
        network: makes the network, which maps (1, 3, H, W) in [0, 1] to one number, or raises ``ValueError`` for an image that
            it has no score for. All its buffers are in the file.
        weights_path: file of its weights; by default the published file ``weights`` is looked for.
        weights: name of that file, as ``upsr weights fetch`` with the name of the metric gives it.
        unused: names in that file that the network does not have, as the beginning of each.

    Raises:
        MetricUnavailableError: no file is given or found.
        UpsrError: it does not fit.
    """

    needs_reference = False
    higher_is_better = True

    def __init__(
        self,
        network: Callable[[], nn.Module],
        weights_path: str | None,
        weights: str,
        unused: re.Pattern[str] | None = None,
    ) -> None:
        self.name = type(self).__name__
        path = published_file(self.name, weights) if weights_path is None else Path(weights_path)
        with torch.device("meta"):  # drawing weights that are replaced would take seconds
            self.network = network()
        self.network.load_state_dict(_fitting(self.name, self.network, path, unused), assign=True)
        self.network.requires_grad_(False).eval()
        # Of the values, not of the file: a .pth and a .safetensors of the same values are one measure.
        self._digest = weights_digest(self.network)[:_DIGITS_OF_DIGEST]

    @property
    def version(self) -> str:
        """Package, version, name, and a digest of all weights."""
        return f"upsr {importlib.metadata.version('upsr')} {self.name.lower()} {self._digest}"

    def to(self, device: torch.device) -> Self:
        """The metric on a device."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """The score of a (1, C, H, W) image in [0, 1].

        Raises:
            MetricUnavailableError: the image is too small, or the score is not finite.
        """
        try:
            value = float(self.network(as_rgb(sr.clamp(0, 1))))
        except ValueError as error:
            raise MetricUnavailableError(f"{self.name}: {error}") from None
        if not math.isfinite(value):
            raise MetricUnavailableError(f"{self.name} of this image is {value}")
        return value


def _fitting(metric: str, network: nn.Module, path: Path, unused: re.Pattern[str] | None) -> dict[str, Tensor]:
    key, remedy = f"{metric}.weights_path", f"upsr weights fetch {metric}"
    if not path.is_file():
        raise UpsrError(f"{key}: no such file: {path}; {remedy}")
    try:
        _, weights = select_weights(read_weight_file(path), None, path)
    except UpsrError as error:
        raise UpsrError(f"{key}: {error}; {remedy}") from None
    weights = {name: value.float() for name, value in weights.items() if unused is None or not unused.match(name)}
    if faults := misfits(network.state_dict(), weights):
        raise UpsrError(f"{key}: {path} does not hold the weights of {metric}: {'; '.join(faults)}; {remedy}")
    return weights
