"""The frame of metrics that are a network of this package with published weights, and need no ground truth."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from upsr.archs.weights import misfits, read_weight_file, select_weights
from upsr.errors import UpsrError
from upsr.metrics.base import MetricUnavailableError
from upsr.metrics.network import NetworkMetric
from upsr.metrics.weight_files import published_file


class NoReferenceMetric(NetworkMetric):
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
        name = type(self).__name__
        path = published_file(name, weights) if weights_path is None else Path(weights_path)
        with torch.device("meta"):  # drawing weights that are replaced would take seconds
            made = network()
        made.load_state_dict(_fitting(name, made, path, unused), assign=True)
        super().__init__(made, name.lower())

    def score(self, sr: Tensor, gt: Tensor | None) -> Tensor:
        """The score of an image that is large enough, see :class:`NetworkMetric`."""
        try:
            return self.network(sr)
        except ValueError as error:
            raise MetricUnavailableError(f"{self.name}: {error}") from None


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
