"""CLIP-IQA without pyiqa."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.archs.clipiqa_network import CLIPIQANetwork
from upsr.archs.torchscript import is_torchscript
from upsr.archs.weights import misfits, read_weight_file, select_weights
from upsr.compat import METRIC_REGISTRY
from upsr.errors import UpsrError
from upsr.metrics.network import NetworkMetric
from upsr.metrics.weight_files import published_file

WEIGHTS = "RN50.pt"
"""OpenAI's name of the published file, as `upsr weights fetch CLIPIQA` names it."""
_UNUSED = ("visual.attnpool.positional_embedding", "input_resolution", "context_length", "vocab_size")
"""Of the published file; CLIP-IQA leaves out the embedding."""
_COUNTER = "num_batches_tracked"
_SMALLEST = 31
"""Of this side one pixel is left after five halvings, of which the first rounds up."""


@METRIC_REGISTRY.register()
class CLIPIQA(NetworkMetric):
    """CLIP-IQA on CLIP's ResNet-50, by a network of this package. Images are measured whole, at their size.

    Args:
        weights_path: OpenAI's ``RN50.pt``, whose program is not run, or its state dict (.pt, .pth, .safetensors); by default
            it is looked for where `upsr weights fetch CLIPIQA` puts it and in the folder that
            ``upsr evaluate --metric-weights`` names.
        prompts: the mean over pyiqa's five pairs of prompts, or the paper's one pair, "Good photo." and "Bad photo.". Their
            values are not comparable; the protocols of papers measure pyiqa's ``clipiqa``.

    Raises:
        MetricUnavailableError: weights are not available.
        UpsrError: the file does not fit.
    """

    needs_reference = False
    higher_is_better = True

    def __init__(self, weights_path: str | None = None, prompts: Literal["pyiqa", "paper"] = "pyiqa") -> None:
        path = published_file("CLIPIQA", WEIGHTS) if weights_path is None else Path(weights_path)
        network = _loaded(path, prompts)
        super().__init__(network, "clipiqa", prompts)
        with torch.inference_mode():
            self._features = network.prompt_features()

    def to(self, device: torch.device) -> Self:
        """See :class:`NetworkMetric`; the features of the prompts go with it."""
        self._features = self._features.to(device)
        return super().to(device)

    def score(self, sr: Tensor, gt: Tensor | None) -> Tensor:
        """The probability that an image of 31 pixels at least is good, see :class:`NetworkMetric`."""
        self.refuse_small(sr, _SMALLEST)
        return self.network(sr, self._features)


def _loaded(path: Path, prompts: str) -> CLIPIQANetwork:
    if not path.is_file():
        raise UpsrError(f"CLIPIQA.weights_path: no such file: {path}; upsr weights fetch CLIPIQA")
    with torch.device("meta"):  # the file's tensors become the network's: nothing is drawn or copied
        network = CLIPIQANetwork(prompts)
    own = network.published_state()
    weights = _weights(path)
    if is_torchscript(path):  # attributes of its program stand among its weights
        weights = {name: value for name, value in weights.items() if name in own}
    if faults := misfits(own, weights):
        raise UpsrError(
            f"CLIPIQA.weights_path: {path} does not hold CLIP's ResNet-50: {'; '.join(faults)}; upsr weights fetch CLIPIQA"
        )
    network.load_published(weights)
    return network.requires_grad_(False).eval()


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        _, weights = select_weights(read_weight_file(path, scripted=True), None, path)
    except UpsrError as error:
        raise UpsrError(f"CLIPIQA.weights_path: {error}; upsr weights fetch CLIPIQA") from None
    return {name: value for name, value in weights.items() if name not in _UNUSED and not name.endswith(_COUNTER)}
