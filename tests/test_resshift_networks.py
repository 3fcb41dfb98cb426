"""Parity of ResShift's networks with the released ones, on synthetic weights, and the layouts of their files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.golden_recipe import arr, filled, key_shapes, vector
from tests.resshift import TINY, TINY_B, VQ_TINY, released_vq
from upsr.accelerate import accelerated
from upsr.archs import ResShiftUNet
from upsr.archs.weights import load_network_weights
from upsr.errors import UpsrError


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def vq() -> nn.Module:
    return released_vq(**VQ_TINY)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(
    ("arguments", "file"), [({}, "unet_keys"), (TINY, "unet_tiny_keys"), (TINY_B, "unet_tinyB_keys")]
)
def test_state_dict_is_that_of_the_released_network(arguments, file):
    with torch.device("meta"):
        network = ResShiftUNet(**arguments)
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == key_shapes(
        f"resshift/{file}.json"
    )


def test_parameters_are_those_of_the_paper():
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")
    from upsr.codecs import VQAutoencoder

    with torch.device("meta"):
        networks = [ResShiftUNet(), VQAutoencoder()]
        parts = [networks[1].network.encoder, networks[1].network.decoder, ResShiftUNet(**TINY), ResShiftUNet(**TINY_B)]
    counts = [sum(p.numel() for p in network.parameters()) for network in [*networks, *parts]]
    golden = key_shapes("resshift/counts.json")
    assert counts[:2] == [118_593_583, 55_322_782]
    assert counts == [
        golden[n] for n in ("unet_full", "vq_full", "vq_encoder", "vq_decoder", "unet_tiny", "unet_tinyB")
    ]


@pytest.mark.parametrize(("arguments", "file"), [({}, "vq_keys"), (VQ_TINY, "vq_tiny_keys")])
def test_autoencoder_has_the_released_names(arguments, file):
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")
    from upsr.codecs import VQAutoencoder

    with torch.device("meta"):
        layout = VQAutoencoder(**arguments).other_layouts()[1]
    assert {key: list(value.shape) for key, value in layout.items()} == key_shapes(f"resshift/{file}.json")


@pytest.mark.slow
def test_full_unet_matches():
    network = filled(ResShiftUNet())
    inputs = [arr(f"in:rs.unet.{name}", (2, 3, 64, 64)) for name in ("x", "lq")]
    expected = vector("resshift/unet_full_64x64_t0_14.npz")
    for form in (network, accelerated(network)):
        assert_close(form(inputs[0], torch.tensor([0, 14]), 0.5 * inputs[1]), expected)


def test_tiny_unet_matches():
    x, lq = (arr(f"in:rs.tiny.{name}", (2, 3, 64, 64)) for name in ("x", "lq"))
    out = filled(ResShiftUNet(**TINY))(x, torch.tensor([1, 3]), 0.5 * lq)
    assert_close(out, vector("resshift/unet_tiny_64x64_t1_3.npz"))


def test_a_larger_condition_goes_through_the_pyramid():
    x, lq = arr("in:rs.tinyB.x", (1, 3, 32, 32)), arr("in:rs.tinyB.lq", (1, 3, 64, 64))
    network = filled(ResShiftUNet(**TINY_B))
    for form in (network, accelerated(network)):
        assert_close(form(x, torch.tensor([2]), 0.5 * lq), vector("resshift/unet_tinyB_32x32_t2.npz"))
    for wrong in (96, 16):
        with pytest.raises(UpsrError, match=f"lq_size is {wrong}"):
            ResShiftUNet(**{**TINY_B, "lq_size": wrong})


@pytest.mark.parametrize("name", ["vq_tiny_64x64", "vq_tiny_odd_50x39"])
def test_autoencoder_matches(vq, name):
    margins = {item["name"]: item for item in key_shapes("resshift/vq_margins.json")}
    tag, size = margins[name]["tag"], [int(side) for side in name.rpartition("_")[2].split("x")]
    expected = {key: vector(f"resshift/{name}.npz", key) for key in ("z", "index", "z_q", "dec")}
    z = vq.encode(2 * arr(tag, (1, 3, *size), "uniform") - 1)
    assert z.is_contiguous()
    assert_close(z, expected["z"])
    z_q, _, (*_, index) = vq.network.quantize(z)
    assert torch.equal(index.flatten(), expected["index"].flatten().long())
    assert_close(z_q, expected["z_q"])
    assert_close(vq.decode(z), expected["dec"])


def test_codes_are_found_in_bands_where_memory_is_short(vq, monkeypatch):
    z = arr("in:rs.bands", (2, 3, 9, 7))
    whole = vq.decode(z)
    monkeypatch.setattr("upsr.codecs.vq._DISTANCES", 32 * 2 * 7 * 2)
    assert_close(vq.decode(z), whole)


@pytest.mark.parametrize("layout", ["released", "diffusers", "own"])
def test_autoencoder_loads_strictly_from_any_layout(vq, layout, tmp_path):
    from upsr.codecs import VQAutoencoder

    diffusers, released = vq.other_layouts()
    weights = {"released": released, "diffusers": diffusers, "own": vq.state_dict()}[layout]
    weights = {name: value.clone() for name, value in weights.items()}
    torch.save({"state_dict": weights}, tmp_path / "vq.pth")
    with torch.inference_mode(False):
        fresh = VQAutoencoder(**VQ_TINY)
        load_network_weights(fresh, tmp_path / "vq.pth")
    assert all(torch.equal(value, vq.state_dict()[name]) for name, value in fresh.state_dict().items())
    name = next(
        name for name in weights if name.endswith("block.0.norm1.weight" if layout == "released" else "norm1.weight")
    )
    weights[f"{name}_of_another"] = weights.pop(name)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(UpsrError, match=rf"1 missing \({name}\); 1 unknown \({name}_of_another\)"):
        load_network_weights(fresh, tmp_path / "other.pth")
