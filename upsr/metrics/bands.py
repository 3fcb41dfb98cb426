"""Energies of an image in the two bands of frequencies that a smaller image does and does not have."""

from __future__ import annotations

import torch
from torch import Tensor

from upsr.devices import in_float64


def band_energies(image: Tensor, reference: Tensor, scale: float) -> dict[str, float]:
    """Energies for two images (1, C, H, W) in [0, 1], each the mean over their pixels and channels.

    The low band are the frequencies below 1 / (2 scale) cycles per pixel in both directions, which an image smaller by
    ``scale`` has; the high band are the others. Images count as periodic: what their opposite edges differ by is in both
    bands, of both images.

    Returns:
        ``low_error``: the squared difference of the two in the low band; ``high`` and ``high_reference``: the square of each in
        the high band.
    """
    axes = [torch.fft.fftfreq(side).abs() < 1 / (2 * scale) for side in image.shape[-2:]]
    ours, theirs = (torch.fft.fft2(in_float64(x), norm="ortho") for x in (image, reference))
    low = (axes[0][:, None] & axes[1]).to(ours.device)

    def energy(spectrum: Tensor, band: Tensor) -> float:
        return float(spectrum.abs().square()[..., band].sum() / spectrum.numel())

    return {
        "low_error": energy(ours - theirs, low),
        "high": energy(ours, ~low),
        "high_reference": energy(theirs, ~low),
    }
