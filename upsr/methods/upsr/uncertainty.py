"""Uncertainty-guided noise weighting: how much noise each pixel gets (paper, Sec. 3.2, 3.3 and Appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor


class UncertaintyWeight:
    """psi = 1/2 |g(y) - y| and u'(psi) of Eq. 17, per pixel and per channel.

    Images go in with range [-1, 1]; psi is measured on the [0, 1] range, as psi_max = 0.05 of the paper is (its Fig. 7
    puts the bend at |g(y) - y| = 0.1). The released code writes the same function as min(|g(y) - y|, 0.1) / 0.1.

    Args:
        psi_max: uncertainty from which on a pixel gets the full noise, > 0.
        b_u: weight of a pixel without any uncertainty, in [0, 1]. 1 is isotropic noise (Table 5, "w/o uncertainty").
        enabled: ``False`` gives every pixel the weight 1 whatever its uncertainty (Table 1, without UNW).
    """

    def __init__(self, psi_max: float = 0.05, b_u: float = 0.4, enabled: bool = True) -> None:
        self.psi_max = psi_max
        self.b_u = b_u
        self.enabled = enabled

    def uncertainty(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """psi of the same shape, >= 0, in units of the [0, 1] range; ``y_hat`` = g(y) and ``y`` are in [-1, 1]."""
        return (y_hat - y).abs() / 4

    def weight(self, psi: Tensor) -> Tensor:
        """w = u'(psi) of Eq. 17, in [b_u, 1], of the same shape."""
        if not self.enabled:
            return torch.ones_like(psi)
        return self.b_u + (1 - self.b_u) * (psi / self.psi_max).clamp(max=1)

    def __call__(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """The weight map of a pair of images in [-1, 1]."""
        return self.weight(self.uncertainty(y_hat, y))
