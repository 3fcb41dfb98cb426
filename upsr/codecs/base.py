"""The contract of latent codecs."""

from __future__ import annotations

from torch import Tensor, nn


class Codec(nn.Module):
    """Maps images to a smaller space in which a diffusion runs, and back.

    Attributes:
        factor: image pixels per side of a cell of the latent.
        channels: of the latent.
        carries_weights: the constructor has loaded the weights, no other file is needed.
        values_per_pixel: numbers held at once for each image pixel, about; it decides how large tiles are.
    """

    factor: int
    channels: int
    carries_weights: bool = False
    values_per_pixel: int

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], sides multiples of ``factor`` -> (B, channels, H/factor, W/factor), contiguous."""
        raise NotImplementedError

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, factor*h, factor*w) in about [-1, 1], not clamped."""
        raise NotImplementedError
