"""The vectorised degradation has the distribution of the plain one (benchmarks/plain.py), which calls basicsr as it comes.

Everything is seeded, so that nothing here fails by chance; the thresholds are those of tests at the 0.1 % level.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from plain_training import PlainDegradation, blur_kernel, final_kernel
from scipy.stats import ks_2samp, kstest

from tests import tiny
from upsr.config.schema_data import DegradationOptions
from upsr.data import RealESRGANDegradation
from upsr.data import degradation as degradation_module
from upsr.data.image_io import to_tensor
from upsr.data.kernels import draw_kernels, render_kernels

OPTIONS = DegradationOptions()
DRAWS = 3000


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def rendered(support: int, row: int, count: int = DRAWS) -> np.ndarray:
    drawn = torch.stack([draw_kernels(OPTIONS, "statistics", i)[row] for i in range(count)])
    return render_kernels(drawn, support).numpy().astype(np.float64)


@pytest.mark.parametrize("kind", ["bell", "plateau", "sinc"])
def test_a_kernel_is_basicsrs_for_the_same_numbers(kind):
    from basicsr.data import degradations as basicsr

    rng = np.random.default_rng(1)
    for _ in range(100):
        size = int(rng.choice(range(3, 22, 2)))
        sigma_x, sigma_y = rng.uniform(0.2, 3, 2)
        theta, beta, cutoff = rng.uniform(-3.14, 3.14), rng.uniform(0.5, 4), rng.uniform(0.6, 3.14)
        shape = (size, sigma_x, sigma_y, theta, beta)
        if kind == "sinc":
            expected = basicsr.circular_lowpass_kernel(cutoff, size)
        elif kind == "bell":
            expected = basicsr.bivariate_generalized_Gaussian(*shape, isotropic=False)
        else:
            expected = basicsr.bivariate_plateau(*shape, isotropic=False)
        code = ["bell", "plateau", "sinc"].index(kind)
        description = torch.tensor([size, code, sigma_x, sigma_y, theta, beta, cutoff], dtype=torch.float64)
        actual = render_kernels(description, 21).numpy()
        margin = (21 - size) // 2
        np.testing.assert_allclose(actual, np.pad(expected, margin), atol=2e-7)


@pytest.mark.parametrize("row", [0, 1, 2], ids=["first", "second", "final"])
def test_mean_and_spread_of_the_kernels(row):
    """Pixel by pixel, within 4.5 standard errors; and the size, width and ringing of kernels as distributions."""
    plain_one = [
        lambda: blur_kernel(OPTIONS.first.blur), lambda: blur_kernel(OPTIONS.second.blur), lambda: final_kernel(OPTIONS.final)
    ][row]  # fmt: skip
    plain = np.stack([plain_one() for _ in range(DRAWS)])
    ours = rendered(plain.shape[-1], row)
    error = np.sqrt((plain.var(0) + ours.var(0)) / DRAWS)
    assert (np.abs(plain.mean(0) - ours.mean(0)) <= 4.5 * error + 1e-6).all()

    def sizes(kernels):
        return (kernels[:, kernels.shape[1] // 2] != 0).sum(-1)

    place = np.arange(plain.shape[-1]) - plain.shape[-1] // 2
    radius = place[:, None] ** 2 + place[None, :] ** 2
    for statistic in (sizes, lambda k: (k * radius).sum((1, 2)), lambda k: k.min((1, 2)), lambda k: k.max((1, 2))):
        # rounding: what is equal in float32 must be equal here
        assert ks_2samp(np.round(statistic(plain), 5), np.round(statistic(ours), 5)).pvalue > 1e-3


def flat_options(**stage) -> DegradationOptions:
    """Nothing but noise: no blur, no resizing, hardly any compression."""
    still = {"blur_prob": 0, "resize_prob": (0, 0, 1), "jpeg_range": (100, 100), **stage}
    return DegradationOptions(first=still, second=still, second_order_prob=0, final={"sinc_prob": 0}, decision_group=1)


@pytest.mark.parametrize("gaussian", [1, 0], ids=["gaussian", "poisson"])
def test_noise_levels(gaussian):
    options = flat_options(gaussian_noise_prob=gaussian)
    gt = torch.full((1, 3, 32, 32), 0.5)
    plain, ours = PlainDegradation(options, 1, torch.device("cpu")), RealESRGANDegradation(options, 1)
    delta = torch.zeros(1, 15, 15)
    delta[:, 7, 7] = 1
    kernels = draw_kernels(options, 0)[None]
    plain.jpeg = lambda x, quality: x  # what is measured is the noise alone
    ours._compress = lambda x, stage, draws: x
    levels = {"plain": [], "ours": []}
    for i in range(600):
        levels["plain"].append(float(plain(gt, delta, delta, delta).std()))
        levels["ours"].append(float(ours(gt, kernels, slots=[i], keys=(0, "noise")).std()))
    assert ks_2samp(levels["plain"], levels["ours"]).pvalue > 1e-3
    error = np.sqrt((np.var(levels["plain"]) + np.var(levels["ours"])) / 600)
    assert abs(np.mean(levels["ours"]) - np.mean(levels["plain"])) < 3.5 * error


def test_jpeg_qualities_are_uniform_and_mean_what_basicsrs_mean(monkeypatch):
    seen = []
    original = degradation_module._quantisation_factor
    monkeypatch.setattr(
        degradation_module, "_quantisation_factor", lambda quality: seen.append(quality.clone()) or original(quality)
    )
    ours = RealESRGANDegradation(OPTIONS, 4)
    gt = torch.rand(16, 3, 64, 64)
    kernels = torch.stack([draw_kernels(OPTIONS, i) for i in range(16)])
    for step in range(40):
        ours(gt, kernels, slots=range(16), keys=(0, step))
    qualities = torch.cat(seen).numpy()
    assert len(qualities) == 2 * 40 * 16
    assert kstest(qualities, "uniform", args=(30, 65)).pvalue > 1e-3
    assert np.histogram(qualities, bins=13, range=(30, 95))[0].min() > 60

    from basicsr.utils.diffjpeg import quality_to_factor

    expected = [quality_to_factor(float(q)) for q in qualities[:200]]
    np.testing.assert_allclose(original(torch.from_numpy(qualities[:200])), expected, rtol=1e-6)


def test_compression_is_basicsrs():
    from basicsr.utils.diffjpeg import DiffJPEG

    ours = RealESRGANDegradation(OPTIONS, 4)
    image = to_tensor(tiny.picture(50, 70, 1))[None].repeat(4, 1, 1, 1)
    draws = degradation_module._Draws(
        decisions=np.random.default_rng(0),
        samples=[torch.Generator().manual_seed(i) for i in range(4)],
        shared=torch.Generator(),
    )
    actual = ours._compress(image, OPTIONS.first, draws)
    quality = 30 + 65 * torch.cat([torch.rand(1, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    torch.testing.assert_close(actual, DiffJPEG(differentiable=False)(image, quality=quality), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_degraded_images_as_a_whole():
    """Brightness, contrast and sharpness of LR images have the same distribution after both pipelines."""
    options = DegradationOptions(decision_group=1)
    gt = to_tensor(tiny.picture(64, 64, 5))[None]
    plain, ours = PlainDegradation(options, 4, torch.device("cpu")), RealESRGANDegradation(options, 4)
    results = {"plain": [], "ours": []}
    for i in range(500):
        kernels = [
            torch.from_numpy(k).float()[None]
            for k in (blur_kernel(options.first.blur), blur_kernel(options.second.blur), final_kernel(options.final))
        ]
        results["plain"].append(plain(gt, *kernels))
        results["ours"].append(ours(gt, draw_kernels(options, 0, i)[None], slots=[i], keys=(0, "whole")))

    def sharpness(x):
        return float((x[..., 1:] - x[..., :-1]).abs().mean())

    for statistic in (lambda x: float(x.mean()), lambda x: float(x.std()), sharpness):
        a, b = ([statistic(x) for x in results[name]] for name in ("plain", "ours"))
        assert ks_2samp(a, b).pvalue > 1e-3
        assert np.mean(a) == pytest.approx(np.mean(b), rel=0.1)
