"""Images of a stationary Gaussian field, for which the best denoiser is a known linear filter: a diffusion without training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.golden_recipe import arr
from upsr.diffusion import VariancePreserving, alphas_cumprod, sample, schedule_betas, timesteps_from
from upsr.diffusion.sampling import repeated

SIDE, IMAGES = 64, 8


def process_of(name: str) -> VariancePreserving:
    """The process of a golden schedule, by its key there."""
    if name == "sd_scaled_linear":
        betas = schedule_betas("scaled_linear", beta_start=0.00085, beta_end=0.012)
    else:
        betas = schedule_betas("cosine" if name == "cosine_trained_betas" else name)
    return VariancePreserving(alphas_cumprod(betas))


def spectrum(side: int = SIDE) -> Tensor:
    """Mean power of the field at each frequency, (side, side) float64, in the order of ``fft2``."""
    f = torch.fft.fftfreq(side, dtype=torch.float64)
    power = (f[:, None] ** 2 + f**2 + (1 / 32) ** 2) ** -1.25
    return power * (0.25 / power.mean())


def filtered(x: Tensor, gain: Tensor) -> Tensor:
    """The images with each frequency multiplied by its gain."""
    return torch.fft.ifft2(torch.fft.fft2(x, norm="ortho") * gain, norm="ortho").real


def images(tag: str = "in:sb.field.a", count: int = IMAGES) -> Tensor:
    """Samples of the field, (count, 1, 64, 64) float64 in about [-1, 1]."""
    return filtered(arr(tag, (count, 1, SIDE, SIDE)).double(), spectrum().sqrt())


def noise(tag: str = "in:sb.field.a.noise", count: int = IMAGES) -> Tensor:
    """The golden noise, (count, 1, 64, 64) float64."""
    return arr(tag, (count, 1, SIDE, SIDE)).double()


def passed(scale: float, side: int = SIDE) -> Tensor:
    """True at the frequencies that an image smaller by ``scale`` has."""
    f = torch.fft.fftfreq(side, dtype=torch.float64).abs() < 1 / (2 * scale)
    return f[:, None] & f


def upsampled(x: Tensor, scale: float) -> Tensor:
    """The images without what a smaller image lacks."""
    return filtered(x, passed(scale).double())


class ExactNetwork(nn.Module):
    """The best denoiser of the field as a network: (x_t, t) -> the output that its process expects."""

    def __init__(self, process: VariancePreserving, side: int = SIDE) -> None:
        super().__init__()
        self.process, self.power = process, spectrum(side)

    def estimate(self, x: Tensor, t: Tensor) -> Tensor:
        """The mean of x_0 given x_t."""
        a = self.process.alpha_bar(t)[:, None, None, None]
        return filtered(x, a.sqrt() * self.power / (a * self.power + 1 - a))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise, x_0 or v of that mean."""
        x_0 = self.estimate(x, t)
        return self.process.target(x_0, self.process.epsilon(x_0, x, t), t).to(x.dtype)


def restored(process: VariancePreserving, x: Tensor, eps: Tensor, t: int, steps: int = 50) -> Tensor:
    """Noised to t and denoised deterministically; t = 0 returns the input."""
    if t == 0:
        return x
    timesteps = repeated(timesteps_from(t, steps), len(x), x.device)
    start = process.q_sample(x, timesteps[:, 0], eps)
    return sample(start, ExactNetwork(process).estimate, process.step("ddim"), timesteps, lambda k: eps)


def psnr(x: Tensor, reference: Tensor) -> float:
    """dB for images in [-1, 1]."""
    return float(10 * torch.log10(4 / (x - reference).square().mean()))


def high_ratio(x: Tensor, reference: Tensor, scale: float) -> float:
    """Energy outside the band of the smaller image, as a share of the reference's."""

    def energy(image: Tensor) -> Tensor:
        return torch.fft.fft2(image).abs().square()[..., ~passed(scale)].sum()

    return float(energy(x) / energy(reference))
