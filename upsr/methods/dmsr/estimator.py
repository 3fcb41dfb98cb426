"""The timestep estimator of DM-SR (App. A.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upsr.archs.imagenet import BackboneUnavailableError, fetched
from upsr.archs.weights import misfits, read_weight_file, select_weights
from upsr.errors import UpsrError
from upsr.tiling.padding import pad_to_size

_VGG_WIDTH = 64
_CELL = 32
"""Pixels per side of a cell of the features."""
_HALO = 128
"""Pixels beside a block that its features depend on, 118, raised to whole cells."""
_WINDOW = 1024
"""Largest side of the part of an image whose features are computed at once, where no gradients are."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, for values in [0, 1]."""

_KEY = "estimator.pretrained"
_OWN = "features."
_RANDOM = f"or begin with random features: {_KEY}: null"


class TimestepEstimator(nn.Module):
    """Estimates a timestep from VGG-19 features of an upsampled LR image: the expectation over all bins (Eq. 10).

    Args:
        width: channels of the first block; 64 is VGG-19, of 20,024,384 parameters.
        bins: timesteps 0 .. bins - 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int = 64, bins: int = 500) -> None:
        super().__init__()
        from torchvision.models import vgg  # a second to import

        layers = [v if v == "M" else int(v) * width // _VGG_WIDTH for v in vgg.cfgs["E"]]
        self.features = vgg.make_layers(layers)
        self.head = nn.Linear(8 * width, bins)
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.features.apply(_initialise)

    def forward(self, x_lr: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B,) timesteps in [0, bins - 1], float32, not rounded."""
        return self.expectation(self.head(self.pooled(x_lr)))

    def pooled(self, x_lr: Tensor) -> Tensor:
        """(B, 8 width): the mean of the features over the image.

        Images smaller than a cell are reflected. Where no gradients are computed, the features of images larger than a window are
        computed in parts that overlap; their mean is the same to rounding.
        """
        height, width = (max(side, _CELL) for side in x_lr.shape[-2:])
        if (height, width) != x_lr.shape[-2:]:
            x_lr = pad_to_size(x_lr, (height, width))
        if torch.is_grad_enabled() or max(height, width) <= _WINDOW:
            return self._features(x_lr).mean(dim=(2, 3))
        sums = x_lr.new_zeros(1)
        for top, bottom, first_row, last_row in _parts(height):
            for left, right, first_column, last_column in _parts(width):
                part = self._features(x_lr[..., top:bottom, left:right])
                sums = sums + part[..., first_row:last_row, first_column:last_column].sum(dim=(2, 3))
        return sums / ((height // _CELL) * (width // _CELL))

    @staticmethod
    def expectation(logits: Tensor) -> Tensor:
        """(B, bins) -> (B,) float32."""
        # A matrix product would be in half precision under autocast, which has not all bins.
        bins = torch.arange(logits.shape[1], device=logits.device)
        return (logits.float().softmax(dim=1) * bins).sum(dim=1)

    def _features(self, x_lr: Tensor) -> Tensor:
        features: Tensor = self.features(((x_lr + 1) / 2 - self.mean) / self.std)
        return features


def load_features(estimator: TimestepEstimator, pretrained: str) -> None:
    """Fill the features with those of torchvision's VGG-19.

    Args:
        pretrained: a file of torchvision's ``vgg19`` (.pth, .safetensors), or ``imagenet``: torchvision fetches it.

    Raises:
        UpsrError: the file is missing, cannot be fetched, or does not fit.
    """
    first = estimator.features[0]
    assert isinstance(first, nn.Conv2d)
    if pretrained == "imagenet" and first.out_channels != _VGG_WIDTH:
        raise UpsrError(
            f"{_KEY}: imagenet is of VGG-19, whose width is {_VGG_WIDTH}, but estimator.width is {first.out_channels}; "
            f"make it {_VGG_WIDTH}, {_RANDOM}"
        )
    content = _fetched() if pretrained == "imagenet" else _read(Path(pretrained))
    weights = {name.removeprefix(_OWN): value for name, value in content.items() if name.startswith(_OWN)}
    if faults := misfits(estimator.features.state_dict(), weights):
        raise UpsrError(
            f"{_KEY}: {pretrained}: no features of a VGG-19 of width {first.out_channels}: {'; '.join(faults)}; "
            f"give another file, {_RANDOM}"
        )
    estimator.features.load_state_dict(weights)


def _fetched() -> Mapping[str, Any]:
    from torchvision.models import VGG19_Weights

    try:
        return fetched(VGG19_Weights.IMAGENET1K_V1, _KEY)
    except BackboneUnavailableError as error:
        raise UpsrError(f"{_KEY}: imagenet: {error}, {_RANDOM}") from None


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        return select_weights(read_weight_file(path), None, path)[1]
    except UpsrError as error:
        raise UpsrError(
            f"{_KEY}: {error}; give a file of torchvision's vgg19 (upsr weights fetch VGG-19), {_RANDOM}"
        ) from None


def _parts(side: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows of pixels along a side, and the cells of each that are its own: start and stop of both.

    A window is its own cells and a halo, so that their features are those in the whole image. Each starts at a whole cell, where
    the poolings of the whole image do.
    """
    if side <= _WINDOW:
        yield 0, side, 0, side // _CELL
        return
    own = _WINDOW - 2 * _HALO
    for start in range(0, side // _CELL * _CELL, own):
        top, stop = max(start - _HALO, 0), min(start + own, side)
        yield top, min(stop + _HALO, side), (start - top) // _CELL, (stop - top) // _CELL


def _initialise(layer: nn.Module) -> None:
    """As torchvision's VGG: what ReLUs take from the variance is given back."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
