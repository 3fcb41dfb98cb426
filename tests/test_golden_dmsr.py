"""DM-SR against the exact numbers of its formulas: decomposition, K steps, the losses and their gradients."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden_recipe import GOLDEN, arr
from upsr.diffusion import VariancePreserving, alphas_cumprod, sample, schedule_betas
from upsr.methods.dmsr import training as phase
from upsr.methods.dmsr.method import DMSR, proportional_timesteps, rounded
from upsr.methods.dmsr.options import DMSRTrainOptions
from upsr.methods.dmsr.training import DistributionMatching

FOLDER = GOLDEN / "siblings"
SHAPE = (3, 4, 8, 8)
T_HAT = torch.tensor([137, 300, 499])


class Stub(nn.Module):
    """The network of the golden case, in the place of the U-Net."""

    dtype = torch.float32

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Any:
        return SimpleNamespace(sample=0.8 * torch.tanh(0.7 * x + 0.001 * t[:, None, None, None]) + 0.05 * x)


class Denoising(DMSR):
    """The part of the method that needs no autoencoder."""

    def __init__(self, unet: nn.Module) -> None:
        nn.Module.__init__(self)
        self.unet = unet
        betas = schedule_betas("scaled_linear", beta_start=0.00085, beta_end=0.012)
        self.process = VariancePreserving(alphas_cumprod(betas))


class Losses(DistributionMatching):
    """The losses of the denoiser."""

    def __init__(self, method: DMSR, **train: Any) -> None:
        nn.Module.__init__(self)
        self.method, self.opt = method, DMSRTrainOptions(total_iter=1, **train)


CONTEXT = torch.zeros(1, 1, 1)


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    with np.load(FOLDER / "dmsr_stub_a.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file}


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-5)


def x_t() -> Tensor:
    return 0.9 * arr("in:sb.dm1.X", SHAPE)


def ground_truth(expected: dict[str, Tensor]) -> Tensor:
    return expected["Z"].float() + 0.3 * arr("in:sb.dm1.d", SHAPE)


def test_the_latent_is_decomposed_into_image_and_noise(expected):
    method = Denoising(Stub())
    noise = method.noise_in(x_t(), T_HAT, CONTEXT)
    close(noise, expected["eps_sr"])
    close(method.image_in(x_t(), T_HAT, noise), expected["Z"])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_k_steps_use_the_first_noise_again(expected, steps):
    method = Denoising(Stub())
    t = proportional_timesteps(T_HAT, steps)
    z = sample(x_t(), method.denoiser(CONTEXT), method.process.reusing_step(), t, lambda _: pytest.fail("drawn"))
    close(z, expected[f"Z_K{steps}"])


def test_timesteps_of_k_steps():
    cases = json.loads((FOLDER / "dmsr_timesteps.json").read_text())
    assert cases
    for case, wanted in cases.items():
        t, steps = (int(number) for number in case.split("/"))
        assert proportional_timesteps(torch.tensor([t]), steps)[0].tolist() == wanted["rounded"], case


def test_halves_are_rounded_up():
    assert rounded(torch.tensor([0.49, 0.5, 249.5, 250.49])).tolist() == [0, 1, 250, 250]


def test_the_distribution_matching_loss_and_its_gradient(expected, monkeypatch):
    monkeypatch.setattr(phase, "drawn_timesteps", lambda low, high, generators: torch.tensor([37, 97, 157]))
    monkeypatch.setattr(phase, "stacked", lambda kind, shape, generators: arr("in:sb.dm1.n", SHAPE))
    z = expected["Z"].float().requires_grad_()
    loss = Losses(Denoising(Stub())).matching_loss(z, ground_truth(expected), CONTEXT, [])
    loss.backward()
    close(loss.detach(), expected["dm_loss"])
    close(z.grad, expected["dm_grad"])
    close(z.grad * z.numel(), expected["dm_g"])


def test_timesteps_of_the_distribution_matching_loss_are_drawn_for_each_sample():
    seen: list[Tensor] = []

    class Watched(Stub):
        def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Any:
            seen.append(t)
            return super().forward(x, t, context)

    z = torch.zeros(64, 4, 2, 2)
    generators = [torch.Generator().manual_seed(slot) for slot in range(64)]
    Losses(Denoising(Watched())).matching_loss(z, z, CONTEXT, generators)
    first, second = seen[0].chunk(2)
    assert torch.equal(first, second), "one noise and one timestep for the restored latent and the ground truth"
    assert 1 <= int(first.min()) < 100 < 400 < int(first.max()) <= 500


@pytest.mark.parametrize("form", ["mse_stopgrad", "full"])
def test_the_noise_loss_and_its_gradient(expected, form):
    method = Denoising(Stub())
    noise = expected["eps_sr"].float().requires_grad_()
    loss = Losses(method, noise={"form": form}).noise_loss(noise, ground_truth(expected), T_HAT, CONTEXT)
    loss.backward()
    close(loss.detach(), expected["l_eps"])
    if form == "mse_stopgrad":
        close(noise.grad, expected["l_eps_grad"])
        return
    own = noise.detach().requires_grad_()
    optimal = method.noise_in(method.process.q_sample(ground_truth(expected), T_HAT, own), T_HAT, CONTEXT)
    (own - optimal).square().mean().backward()
    close(noise.grad, own.grad)
    assert not torch.allclose(noise.grad, expected["l_eps_grad"].float(), atol=1e-5)


class Exact(nn.Module):
    """The exact denoiser of Gaussian latents: the first two channels have variance 1, the others hardly any."""

    dtype = torch.float32

    def __init__(self, process: VariancePreserving) -> None:
        super().__init__()
        self.process = process
        self.variance = torch.tensor([1.0, 1.0, 1e-4, 1e-4])[:, None, None]

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Any:
        a = self.process.alpha_bar(t).float()[:, None, None, None]
        x_0 = a.sqrt() * self.variance / (a * self.variance + 1 - a) * x
        return SimpleNamespace(sample=self.process.epsilon(x_0, x, t))


def test_a_step_along_the_distribution_matching_loss_nears_the_ground_truth_on_and_off_the_manifold():
    method = Denoising(Stub())
    method.unet = Exact(method.process)
    generator = torch.Generator().manual_seed(0)
    shape = (16, 4, 8, 8)
    z_gt = torch.randn(shape, generator=generator) * method.unet.variance.sqrt()
    z = (z_gt + 0.5 * torch.randn(shape, generator=generator)).requires_grad_()
    generators = [torch.Generator().manual_seed(slot) for slot in range(16)]
    Losses(method).matching_loss(z, z_gt, CONTEXT, generators).backward()
    after = z.detach() - 0.3 * z.numel() * z.grad

    def error(latent: Tensor, channels: slice) -> float:
        return float((latent - z_gt)[:, channels].square().mean())

    off, on = slice(2, 4), slice(0, 2)
    assert error(after, off) < 0.9 * error(z.detach(), off)
    assert error(after, on) < 0.9 * error(z.detach(), on)


def test_numbers_of_parameters():
    diffusers = pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    from upsr.methods.dmsr.discriminator import ControlDiscriminator
    from upsr.methods.dmsr.encoder import TimestepEncoder
    from upsr.methods.dmsr.estimator import TimestepEstimator
    from upsr.methods.stable_diffusion import _VAE

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    counts = json.loads((FOLDER / "counts.json").read_text())
    with torch.device("meta"):
        vae = diffusers.AutoencoderKL(**_VAE)
        encoder, estimator = TimestepEncoder(vae), TimestepEstimator()
        discriminator, small = ControlDiscriminator(), ControlDiscriminator(layers_per_block=1)
    assert count(encoder.encoder) == counts["sd_vae_encoder"] == 34163592
    assert count(encoder.quant_conv) == counts["sd_vae_quant_conv"]
    assert count(encoder.injection) == 2 * (128 + 256 + 512 + 512)
    assert count(estimator.features) == counts["vgg19_features"]
    assert count(estimator) - count(estimator.features) == counts["estimator_linear_512_500"]
    assert count(discriminator.network) == counts["controlnet_4_3_64_128_256_256_ctx1024_layers2"]
    assert count(discriminator.head) == counts["disc_head_256_1"]
    for network, total, trained in (
        (discriminator, "controlnet_param_tensors", "controlnet_tensors_with_gradient_mid_only"),
        (small, "controlnet_layers1_tensors", "controlnet_layers1_with_gradient"),
    ):
        tensors = list(network.network.parameters())
        assert len(tensors) == counts[total]
        assert sum(p.requires_grad for p in tensors) == counts[trained]
