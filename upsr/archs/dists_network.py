"""The network of DISTS (Ding, Ma, Wang, Simoncelli: Image Quality Assessment: Unifying Structure and Texture Similarity)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LAYERS = 30
"""Of VGG-16's features, up to the last ReLU."""
_TAPS = (3, 8, 15, 22, 29)
"""The last ReLU of each of its five stages."""
_CHANNELS = (3, 64, 128, 256, 512, 512)
"""Of the image and of the stages."""
_STABLE = 1e-6
"""c1 and c2 of the paper."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HANN = (0.5, 1.0, 0.5)
"""A Hann window of five samples, without its zeros."""


class DISTSNetwork(nn.Module):
    """The distance of two batches of images; 0 for equal ones.

    ``features`` has torchvision's names of VGG-16. ``alpha`` and ``beta`` (1, 1475, 1, 1), the learned weights of texture and
    structure, have the names of the published file.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg16  # a second to import, which restoring needs nothing of

        layers = list(vgg16(weights=None, init_weights=False).features)[:_LAYERS]
        self.features = nn.ModuleList(L2Pooling() if isinstance(layer, nn.MaxPool2d) else layer for layer in layers)
        self.alpha, self.beta = (nn.Parameter(torch.zeros(1, sum(_CHANNELS), 1, 1)) for _ in range(2))
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) distances of (B, 3, H, W) in [0, 1], sides of 16 and more."""
        pairs = zip(self._stages(x), self._stages(y), strict=True)
        textures, structures = zip(*(_similarities(*pair) for pair in pairs), strict=True)
        likeness = self.alpha * torch.cat(textures, dim=1) + self.beta * torch.cat(structures, dim=1)
        return 1 - likeness.sum(dim=(1, 2, 3)) / (self.alpha.sum() + self.beta.sum())

    def _stages(self, image: Tensor) -> Iterator[Tensor]:
        """The image, then the features of each stage."""
        yield image
        x = (image - self.mean) / self.std
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in _TAPS:
                yield x


class L2Pooling(nn.Module):
    """The root of the mean of squares under a window, at every second pixel: pooling without aliases, as the paper has it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2))."""
        line = torch.tensor(_HANN, dtype=x.dtype, device=x.device) / sum(_HANN)
        window = torch.outer(line, line).expand(x.shape[1], 1, -1, -1)
        return (F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of texture (means) and structure (covariances) of features, (B, C, 1, 1) each."""
    places = (2, 3)
    mean_x, mean_y = x.mean(dim=places, keepdim=True), y.mean(dim=places, keepdim=True)
    texture = (2 * mean_x * mean_y + _STABLE) / (mean_x.square() + mean_y.square() + _STABLE)
    x, y = x - mean_x, y - mean_y
    squares = (x.square() + y.square()).mean(dim=places, keepdim=True)
    structure = (2 * (x * y).mean(dim=places, keepdim=True) + _STABLE) / (squares + _STABLE)
    return texture, structure
