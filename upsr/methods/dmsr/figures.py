"""Figures 4b and 6d of the paper: the distribution of the noise that the denoiser finds in the encoder's output."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upsr.methods.dmsr.method import DMSR

_QUANTILES = 399


class NoiseDistribution:
    """Values of the predicted noise of images, over all cells and at single ones.

    Args:
        method: its timesteps are those of a restoration.

    Attributes:
        side: of the square that is cut from the centre of an LR image, in pixels: one tile of the latent. A smaller image gives a
            smaller square, which the method enlarges.
    """

    def __init__(self, method: DMSR) -> None:
        self.method = method
        self.side = int(method.facts.canvas[0] // method.facts.scale)
        self._noise: list[Tensor] = []

    def add(self, lq: Tensor) -> None:
        """Adds LR images (B, 3, h, w) in [0, 1]."""
        height, width = lq.shape[-2:]
        side = min(self.side, height, width)
        top, left = (height - side) // 2, (width - side) // 2
        self._noise.append(self.method.predicted_noise(lq[..., top : top + side, left : left + side]).cpu())

    @property
    def values(self) -> NDArray[np.float64]:
        """(images, C, rows, columns)."""
        return torch.cat(self._noise).double().numpy()

    def at(self, cell: tuple[int, int]) -> NDArray[np.float64]:
        """(images, C): the values at a row and a column."""
        return self.values[:, :, cell[0], cell[1]]

    def quantiles(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quantiles of the standard normal distribution, and those of the values, from 1/400 to 399/400."""
        from scipy.stats import norm

        shares = np.arange(1, _QUANTILES + 1) / (_QUANTILES + 1)
        return norm.ppf(shares), np.asarray(np.quantile(self.values, shares), np.float64)

    def statistics(self, cell: tuple[int, int]) -> dict[str, float]:
        """Numbers of the figures; of a standard normal distribution mean, skewness and excess kurtosis are 0, deviations 1.

        ``qq_rms`` is the root mean square difference of the quantiles. ``over_images`` is the deviation between images at a cell
        and channel, the root mean square over all of them; it is 0 where the noise does not depend on the image.
        ``over_images_at_cell`` is that of ``cell``.
        """
        from scipy.stats import kurtosis, skew

        values, (normal, found) = self.values, self.quantiles()
        variances = values.var(axis=0, ddof=1)
        return {
            "images": len(values),
            "values": values.size,
            "mean": values.mean(),
            "deviation": values.std(),
            "skewness": skew(values, axis=None),
            "excess_kurtosis": kurtosis(values, axis=None),
            "qq_rms": np.sqrt(np.square(normal - found).mean()),
            "over_images": np.sqrt(variances.mean()),
            "over_images_at_cell": np.sqrt(variances[:, cell[0], cell[1]].mean()),
        }
