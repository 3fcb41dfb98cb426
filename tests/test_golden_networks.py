"""Parity of the full-size networks and of the whole pipeline with the released code, on synthetic weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import tiny
from tests.golden_recipe import arr, filled, key_shapes, vector
from upsr.accelerate import accelerated
from upsr.archs import ATD, UNetModelSwin
from upsr.archs.contracts import DenoisingNetwork
from upsr.archs.weights import load_network_weights
from upsr.diffusion import ResidualShift, exponential_sqrt_etas
from upsr.methods.upsr.method import UPSR, Sampling
from upsr.methods.upsr.uncertainty import UncertaintyWeight

TOLERANCE = 1e-4


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return filled(UNetModelSwin())


@pytest.fixture(scope="module")
def atd() -> nn.Module:
    return filled(ATD())


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(
    ("network", "file", "parameters"),
    [(UNetModelSwin, "unet_keys.json", 119_418_319), (ATD, "atd_keys.json", 2_532_360)],
)
def test_parameters_and_state_dict_are_those_of_the_released_network(network, file, parameters):
    with torch.device("meta"):
        built = network()
    assert sum(p.numel() for p in built.parameters()) == parameters
    assert {key: list(value.shape) for key, value in built.state_dict().items()} == key_shapes(file)


@pytest.mark.parametrize("layout", ["params_ema", "params", "root"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_file_layouts_load_strictly(layout, prefix, tmp_path):
    atd = filled(ATD(**tiny.ATD))
    weights = {prefix + key: value for key, value in atd.state_dict().items()}
    decoy = {key: torch.zeros_like(value) for key, value in weights.items()}
    content = {"params_ema": {"params": decoy, "params_ema": weights}, "params": {"params": weights}, "root": weights}[
        layout
    ]
    torch.save(content, tmp_path / "weights.pth")
    fresh = ATD(**tiny.ATD)
    assert load_network_weights(fresh, tmp_path / "weights.pth") == layout
    assert all(torch.equal(value, atd.state_dict()[key]) for key, value in fresh.state_dict().items())


def test_unet_matches_at_64x64(unet):
    out = unet(arr("in:unet.x", (1, 48, 64, 64)), torch.tensor([3]), 0.5 * arr("in:unet.lq", (1, 96, 64, 64)))
    assert_close(out, vector("unet_64x64_t3.npz"))


@pytest.mark.slow
def test_unet_matches_at_64x128_with_a_timestep_for_each_sample(unet):
    lq = 0.5 * arr("in:unet.lq2", (2, 96, 64, 128))
    out = unet(arr("in:unet.x2", (2, 48, 64, 128)), torch.tensor([0, 4]), lq)
    assert_close(out[:, :, ::4, ::4], vector("unet_64x128_t04.npz", "out_sub"))


def test_accelerated_unet_matches(unet):
    inputs = arr("in:unet.x", (1, 48, 64, 64)), torch.tensor([3]), 0.5 * arr("in:unet.lq", (1, 96, 64, 64))
    fast = accelerated(unet)
    assert_close(fast(*inputs), vector("unet_64x64_t3.npz"))
    assert_close(fast.given(inputs[2])(*inputs), vector("unet_64x64_t3.npz"))


def test_unet_modules_match(unet):
    assert_close(unet.input_blocks[1][1](arr("in:unit.f", (1, 160, 16, 24))), vector("unet_swin_in1_16x24.npz"))
    assert_close(unet.middle_block[1](arr("in:unit.g", (1, 640, 16, 16))), vector("unet_swin_mid_16x16.npz"))
    res = unet.input_blocks[7][0](arr("in:unit.h", (2, 320, 8, 8)), arr("in:unit.e", (2, 640)))
    assert_close(res, vector("unet_res_in7_8x8.npz"))


def test_unet_in_channels_last_matches(unet):
    x = arr("in:unet.x", (1, 48, 64, 64)).contiguous(memory_format=torch.channels_last)
    lq = 0.5 * arr("in:unet.lq", (1, 96, 64, 64)).contiguous(memory_format=torch.channels_last)
    assert_close(unet(x, torch.tensor([3]), lq), vector("unet_64x64_t3.npz"))


@pytest.mark.parametrize(
    ("tag", "size", "file"),
    [("a13", (64, 64), "atd_64x64.npz"), ("c4", (8, 10), "atd_8x10.npz"), ("d7", (32, 48), "atd_32x48.npz")],
)
def test_atd_matches(atd, tag, size, file):
    for g in (atd, accelerated(atd)):
        assert_close(g(arr(f"in:atd.{tag}", (1, 3, *size), "uniform")), vector(file))


@pytest.mark.parametrize(("name", "group", "layer"), [("plain", 0, 0), ("shifted", 2, 3), ("last", 3, 5)])
def test_atd_layers_match(atd, name, group, layer):
    x = arr("in:atdlayer.z", (1, 1536, 96)).view(1, 32, 48, 96)
    dictionary = F.normalize(arr("in:atdlayer.td", (1, 64, 96)), dim=-1)
    x, dictionary = atd.layers[group].residual_group.layers[layer](x, dictionary, atd.relative_position_index_SA)
    file = f"atd_layer_{name}_32x48.npz"
    assert_close(x.flatten(1, 2)[:, ::4], vector(file, "z_out_sub"))
    assert_close(dictionary, vector(file, "td_out"))


class Damped(DenoisingNetwork):
    """The golden pipeline wraps the network so that synthetic weights stay in an image's range."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for fact in ("size_multiple", "scale", "out_channels", "values_per_pixel"):
            setattr(self, fact, getattr(network, fact))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return 0.3 * torch.tanh(self.network(*inputs))


def golden_pipeline(unet: nn.Module, atd: nn.Module) -> UPSR:
    """Five steps of the released sampler, as the golden pipeline took them."""
    return UPSR(
        Damped(unet),
        atd,
        ResidualShift(exponential_sqrt_etas(5, kappa=2.5), 2.5),
        Sampling((4, 3, 2, 1, 0), UncertaintyWeight()),
        sr_condition=True,
        trained=(0, 5),
    ).eval()


def test_five_step_pipeline_matches(unet, atd):
    model = golden_pipeline(unet, atd)
    lq = arr("in:atd.a13", (1, 3, 64, 64), "uniform")
    cond = model.condition(lq)
    assert_close(cond.y[..., ::4, ::4], vector("pipeline_64.npz", "y_bicubic_sub"))
    assert_close(cond.y_hat[..., ::4, ::4], vector("pipeline_64.npz", "y_hat_sub"))
    assert_close(cond.weight[..., ::4, ::4], vector("pipeline_64.npz", "w_sub"))
    noise = model.codec.encode(arr("in:pipe.noise", (1, 3, 256, 256)))
    # The stub keeps the output within the final clamp, so nothing is hidden by it.
    restored = model.for_inference(torch.float32).restore(lq, lambda k: noise)
    assert_close(2 * restored - 1, vector("pipeline_64.npz", "out_unclamped"))
