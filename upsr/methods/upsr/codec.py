"""Between images and the space the diffusion runs in."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class PixelUnshuffleCodec:
    """The identity of UPSR (paper, Sec. 3.4: no VQGAN), laid out at LR resolution.

    A (B, C, s*h, s*w) image becomes (B, C*s*s, h, w) with channel index c*s*s + i*s + j; nothing is lost.
    """

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, s*h, s*w) -> (B, C*s*s, h, w)."""
        return F.pixel_unshuffle(image, self.scale)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C*s*s, h, w) -> (B, C, s*h, s*w)."""
        return F.pixel_shuffle(latent, self.scale)
