"""DISTS without pyiqa."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from upsr.archs.dists_network import DISTSNetwork
from upsr.archs.imagenet import BackboneUnavailableError
from upsr.archs.lpips_network import backbone_weights
from upsr.archs.weights import read_weight_file, select_weights
from upsr.compat import METRIC_REGISTRY
from upsr.errors import UpsrError
from upsr.metrics.base import MetricUnavailableError
from upsr.metrics.network import NetworkMetric
from upsr.metrics.weight_files import published_file

WEIGHTS = "DISTS_weights.pt"
"""Name of the published file of learned weights, as `upsr weights fetch DISTS` names it."""
_LEARNED = ("alpha", "beta")
_SMALLEST = 16


@METRIC_REGISTRY.register()
class DISTS(NetworkMetric):
    """DISTS as published, by a network of this package. The images are taken as they are, without the reduction to 256 pixels
    that the authors' program has as an option.

    Args:
        weights_path: the published weights ``alpha`` and ``beta``; by default ``DISTS_weights.pt`` is looked for where
            `upsr weights fetch DISTS` puts it and in the folder that ``upsr evaluate --metric-weights`` names.
        backbone_path: torchvision's state dict of VGG-16, looked for as LPIPS's.

    Raises:
        MetricUnavailableError: weights are not available.
        UpsrError: a file does not fit.
    """

    needs_reference = True
    higher_is_better = False

    def __init__(self, weights_path: str | None = None, backbone_path: str | None = None) -> None:
        learned = _learned(published_file("DISTS", WEIGHTS) if weights_path is None else Path(weights_path))
        try:
            backbone, source = backbone_weights("vgg", backbone_path, "DISTS.backbone_path")
        except BackboneUnavailableError as error:
            raise MetricUnavailableError(f"DISTS needs its ImageNet backbone: {error}") from None
        network = DISTSNetwork()
        wanted = {name: value for name, value in network.state_dict().items() if name not in _LEARNED}
        for name, value in wanted.items():
            if name not in backbone or backbone[name].shape != value.shape:
                raise UpsrError(
                    f"DISTS.backbone_path: {source}: {name} is missing or of another shape; the file is not torchvision's VGG-16"
                )
        network.load_state_dict({**{name: backbone[name].float() for name in wanted}, **learned})
        super().__init__(network, "dists")

    def score(self, sr: Tensor, gt: Tensor | None) -> Tensor:
        """The distance of images of one size, of 16 pixels at least, see :class:`NetworkMetric`."""
        assert gt is not None
        if sr.shape != gt.shape:
            raise UpsrError(f"a restored image of {tuple(sr.shape)} has a ground truth of {tuple(gt.shape)}")
        self.refuse_small(sr, _SMALLEST)
        return self.network(sr, gt)


def _learned(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UpsrError(f"DISTS.weights_path: no such file: {path}; upsr weights fetch DISTS")
    _, weights = select_weights(read_weight_file(path), None, path)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    if set(shapes) != set(_LEARNED) or set(shapes.values()) != {(1, 1475, 1, 1)}:
        raise UpsrError(
            f"DISTS.weights_path: {path} does not hold alpha and beta of (1, 1475, 1, 1); upsr weights fetch DISTS"
        )
    return {name: value.float() for name, value in weights.items()}
