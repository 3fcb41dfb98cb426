"""Parity of the diffusion with the released code, with a stub in place of the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden_recipe import arr
from upsr.diffusion import ResidualShift, exponential_sqrt_etas, respace, sample
from upsr.diffusion.sampling import repeated
from upsr.methods.upsr.codec import PixelUnshuffleCodec

TOLERANCE = 1e-5
CODEC = PixelUnshuffleCodec(4)
GOLDEN = Path(__file__).parent / "golden" / "diffusion_stub.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    shape = (2, 3, 32, 32)
    full = {
        "y": 0.5 * arr("in:diff.y", shape),
        "weight": 0.4 + 0.6 * arr("in:diff.un", shape, "uniform"),
        "noise": arr("in:diff.noise", shape),
        "x_0": 0.5 * arr("in:diff.x0", shape),
    }
    return {**{key: CODEC.encode(value) for key, value in full.items()}, "t": torch.tensor([1, 4])}


@pytest.fixture(scope="module")
def process() -> ResidualShift:
    return ResidualShift(exponential_sqrt_etas(5, kappa=2.5), kappa=2.5)


def stub(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.tanh(0.7 * CODEC.decode(x) + 0.1 * t.view(-1, 1, 1, 1))


def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return CODEC.encode(stub(x, t))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def test_forward_process_matches(process, inputs, golden):
    x_t = process.q_sample(inputs["x_0"], inputs["y"], inputs["t"], weight=inputs["weight"], noise=inputs["noise"])
    assert_close(x_t, golden["q_sample_unshuffled"])
    assert_close(process.scale_input(x_t, inputs["t"]), golden["scaled_input"])


def test_posterior_matches(process, inputs, golden):
    x_t = golden["q_sample_unshuffled"]
    posterior = process.posterior(inputs["x_0"], x_t, inputs["t"], weight=inputs["weight"])
    assert_close(posterior.mean, golden["posterior_mean"])
    assert_close(posterior.variance, golden["posterior_var"])
    assert_close(posterior.log_variance, golden["posterior_logvar"])


def test_training_prediction_matches(process, inputs, golden):
    estimate = stub(process.scale_input(golden["train_x_t_unshuffled"], inputs["t"]), inputs["t"])
    assert_close(estimate, golden["train_pred_x0"])
    mse = (estimate - CODEC.decode(inputs["x_0"])).square().mean(dim=(1, 2, 3))
    assert_close(mse, golden["train_mse"])


@pytest.mark.parametrize(("count", "key"), [(5, "ddim"), (1, "one_step")])
def test_deterministic_sampler_matches(process, inputs, golden, count, key):
    between = process.between(inputs["y"], inputs["weight"])
    timesteps = repeated(respace(5, count), len(inputs["y"]), inputs["y"].device)
    start = between.prior(timesteps[:, 0], inputs["noise"])
    x_0 = sample(
        start, lambda x, t: denoiser(between.scaled(x, t), t), between.step, timesteps, lambda k: inputs["noise"]
    )
    assert_close(CODEC.decode(x_0), golden[key])
