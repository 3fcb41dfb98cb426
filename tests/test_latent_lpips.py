"""LPIPS of latents: the names of its file, and the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from upsr.compat import LOSS_REGISTRY
from upsr.config.components import build
from upsr.config.schema import LossComponent
from upsr.errors import UpsrError
from upsr.losses import FirstAvailableLoss, LatentLPIPSLoss
from upsr.losses.first_available import LossUnavailableError

FIRST = "net.slice1.0.weight"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """The names of the lpips package, with random values."""
    from upsr.archs.lpips_network import without_backbone

    torch.manual_seed(0)
    state = without_backbone("vgg").state_dict()
    return {name: value.clone() for name, value in {**state, FIRST: torch.randn(64, 4, 3, 3) / 6}.items()}


@pytest.fixture(scope="module")
def plain(weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("latent_lpips") / "vgg16_sdturbo_lpips.pth"
    torch.save(weights, path)
    return path


def latents() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 16, 8, generator=generator), torch.randn(2, 4, 16, 8, generator=generator)


def test_it_is_a_frozen_distance_with_gradients_to_the_prediction(plain):
    loss = build(LOSS_REGISTRY, LossComponent(type="LatentLPIPSLoss", weights=str(plain), loss_weight=2.0))
    a, b = latents()
    a.requires_grad_()
    value = loss(a, b)
    assert value.dim() == 0
    value.backward()
    assert float(value.detach()) > 0
    assert float(a.grad.abs().max()) > 0
    assert float(loss(b, b)) == 0
    half = LatentLPIPSLoss(str(plain))
    assert float(half(*latents())) == pytest.approx(float(value.detach()) / 2)
    assert not any(p.requires_grad for p in loss.parameters())
    assert not any(module.training for module in loss.train().modules())


def test_the_latent_is_neither_scaled_nor_pooled_three_times(plain, weights):
    loss = LatentLPIPSLoss(str(plain))
    sides: list[int] = []
    for part in ("slice1", "slice2", "slice3", "slice4", "slice5"):
        getattr(loss.network.net, part).register_forward_hook(lambda _, __, out: sides.append(out.shape[-2]))
    seen: list[Tensor] = []
    loss.network.net.slice1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    a, b = latents()
    loss(a, b)
    assert sides[:5] == [16, 16, 16, 16, 8]
    assert torch.equal(seen[0], a)
    assert torch.equal(loss.network.net.slice5[-2].weight, weights["net.slice5.28.weight"])


def package(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As InvSR's file may be: linear layers once, without dropout."""
    kept = {name: value for name, value in weights.items() if not name.startswith("lins.")}
    return {name.replace(".model.1.", ".model.0."): value for name, value in kept.items()}


def torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    trunk = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith("net.")}
    rest = {name: value for name, value in weights.items() if name.startswith("lin") and not name.startswith("lins")}
    return {**{f"features.{name}": value for name, value in trunk.items()}, **rest}


@pytest.mark.parametrize(
    "form",
    [
        package,
        torchvision,
        lambda weights: {"params": package(weights)},
        lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}},
    ],
    ids=["package", "torchvision", "params", "wrapped"],
)
def test_files_of_either_naming_and_wrapping_are_one(form, weights, plain, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(form(weights), path)
    assert torch.equal(LatentLPIPSLoss(str(path))(*latents()), LatentLPIPSLoss(str(plain))(*latents()))


def test_safetensors_and_other_numbers_of_channels(weights, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "sixteen.safetensors"
    save_file(package({**weights, FIRST: torch.randn(64, 16, 3, 3)}), path)
    assert float(LatentLPIPSLoss(str(path), channels=16)(torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8))) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(FIRST), r"1 missing \(features\.0\.weight\)"),
        (lambda w: w.update(more=torch.zeros(1)), r"1 unknown \(more\)"),
        (
            lambda w: w.update({FIRST: torch.zeros(64, 3, 3, 3)}),
            r"of another shape \(features\.0\.weight \(64, 3, 3, 3\) for \(64, 4, 3, 3\)\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(change, message, weights, tmp_path):
    broken, path = dict(weights), tmp_path / "broken.pth"
    change(broken)
    torch.save(broken, path)
    with pytest.raises(UpsrError, match=rf"^LatentLPIPSLoss\.weights: .*broken\.pth: the weights are not .*{message}"):
        LatentLPIPSLoss(str(path))


def test_a_missing_file_is_named_and_another_loss_may_do(tmp_path):
    with pytest.raises(UpsrError, match=r"^LatentLPIPSLoss\.weights: .*absent\.pth: no such weight file"):
        LatentLPIPSLoss(str(tmp_path / "absent.pth"))
    with pytest.raises(LossUnavailableError, match=r"vgg16_sdturbo_lpips\.pth.*OAOA/InvSR.*perceptual_opt: null"):
        LatentLPIPSLoss()
    other = FirstAvailableLoss([LossComponent(type="LatentLPIPSLoss"), LossComponent(type="L1Loss")])
    assert float(other(torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8))) == 1
