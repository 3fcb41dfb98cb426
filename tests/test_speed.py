"""What is fast gives what is plain: convolutions, norms, networks, restoration; and the benchmarks that say how fast."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import check
import pytest
import torch
import torch.nn.functional as F
from cases import SECTIONS, Setting
from harness import Case, measure
from limits import Limits, traffic_of
from plain import plain_restore
from safetensors.torch import save_file
from torch import nn

from tests import tiny
from upsr.accelerate import accelerated, allocator
from upsr.accelerate.allocator import kept_buffers
from upsr.accelerate.compiled import Compiled
from upsr.accelerate.convolution import GivenFirstConv
from upsr.accelerate.twin import Twin
from upsr.accelerate.winograd import winograd, winograd_weight
from upsr.archs import ATD, CompactSR, SpandrelSR, UNetModelSwin
from upsr.archs.layers import ConditionedConv, DoublingConv, GroupNorm32, PointwiseConv
from upsr.archs.reorder import inverse, reordered
from upsr.archs.swin_unet import SwinUNet
from upsr.diffusion import ResidualShift, exponential_sqrt_etas
from upsr.errors import UpsrError
from upsr.methods.upsr.method import UPSR, Sampling
from upsr.methods.upsr.uncertainty import UncertaintyWeight

CPU = torch.device("cpu")
WIDE = {**tiny.UNET, "image_size": 32, "model_channels": 64, "swin_embed_dim": 64, "num_feat": 64}


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image_like(*shape, seed=0):
    return noise(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


class Holder(SwinUNet):
    """A network of one layer."""

    def __init__(self, layer):
        nn.Module.__init__(self)
        self.layer = layer

    def forward(self, *inputs):
        return self.layer(*inputs)


def fast(layer, dtype=torch.float32):
    """The layer's twin."""
    return accelerated(Holder(layer), dtype).layer


def conv3x3(channels, out, stride=1):
    return nn.Conv2d(channels, out, 3, stride=stride, padding=1)


@pytest.mark.parametrize("on_intel", [True, False])
@pytest.mark.parametrize("shape", [(1, 64, 32, 32), (2, 80, 33, 50), (1, 64, 5, 400), (3, 64, 4, 4)])
def test_winograd_is_the_convolution(shape, on_intel, monkeypatch):
    monkeypatch.setattr("upsr.accelerate.packed._torchs_products_are_fastest", lambda: on_intel)
    layer, x = conv3x3(shape[1], 72), image_like(*shape)
    expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    with torch.no_grad():
        weight = winograd_weight(layer.weight, 64)
        whole = winograd(x, weight, layer.bias)
        monkeypatch.setattr("upsr.accelerate.winograd._BAND_VALUES", 10**9)
        at_once = winograd(x, weight, layer.bias)
    torch.testing.assert_close(whole.double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(at_once.double(), expected, rtol=0, atol=2e-5)


def test_winograd_runs_where_it_pays_and_nowhere_else(monkeypatch):
    calls = []
    monkeypatch.setattr("upsr.accelerate.native.library.kernels", lambda: "not built")
    monkeypatch.setattr("upsr.accelerate.convolution.winograd", lambda x, weight, bias: calls.append(x.shape) or x)
    layer = conv3x3(64, 64)
    fast(conv3x3(32, 64))(image_like(1, 32, 32, 32))
    fast(conv3x3(64, 64, stride=2))(image_like(1, 64, 64, 64))
    fast(layer)(image_like(1, 64, 8, 8))
    fast(layer, torch.bfloat16)(image_like(1, 64, 32, 32).bfloat16())
    layer(image_like(1, 64, 32, 32))
    assert calls == []
    fast(layer)(image_like(1, 64, 32, 32))
    fast(layer)(noise(1, 64, 32, 32))
    assert calls == [(1, 64, 32, 32)] * 2


LAYERS = {
    "convolution": lambda: conv3x3(48, 40),
    "strided": lambda: conv3x3(48, 40, stride=2),
    "by Winograd": lambda: conv3x3(80, 72),
    "by Winograd in a kernel": lambda: conv3x3(80, 64),
    "doubling": lambda: DoublingConv(48, 40),
    "to an image": lambda: conv3x3(48, 3),
    "pointwise": lambda: PointwiseConv(48, 40),
}


def map_for(layer, dtype=torch.float32):
    return image_like(2, layer.in_channels, 32, 36).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_twins_give_what_the_layer_gives(name, dtype):
    layer = LAYERS[name]().to(dtype)
    twin, x = fast(layer, dtype), map_for(layer, dtype)
    expected = copy.deepcopy(layer).double()(x.double()).detach()
    own, again, single = twin(x), twin(x), twin(x[1:].contiguous(memory_format=torch.channels_last))
    assert torch.equal(own, again)
    assert torch.equal(own[1:], single)
    assert own.dtype == dtype
    assert twin._kept
    tolerance = 2e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(own.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_twins_share_the_layers_parameters_and_leave_it_alone(name):
    layer = LAYERS[name]()
    kind, x = type(layer), map_for(layer)
    twin = fast(layer)
    expected = twin(x)
    assert type(layer) is kind
    assert all(p.requires_grad for p in layer.parameters())
    assert not any(p.requires_grad for p in twin.parameters())
    assert [p.data_ptr() for p in twin.parameters()] == [p.data_ptr() for p in layer.parameters()]
    assert twin.state_dict().keys() == layer.state_dict().keys()
    for other in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin)), twin.to(torch.float64).to(torch.float32)):
        assert torch.equal(other(x), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_packed_that_should_not_be(name):
    layer = LAYERS[name]()
    x, twins = map_for(layer), [fast(layer), fast(layer, torch.int8)]
    with torch.autocast("cpu", torch.bfloat16):
        twins[0](x)
    twins[1](x)
    assert all(isinstance(twin, Twin) for twin in twins)
    assert not any(twin._kept for twin in twins)


@pytest.mark.parametrize("shape", [(2, 6, 15, 19), (1, 8, 1, 300), (1, 4, 3, 3)])
def test_doubling_convolution_is_the_convolution_of_the_doubled(shape):
    layer = DoublingConv(shape[1], 5)
    x, twin = noise(*shape), fast(layer)
    expected = layer(x)
    torch.testing.assert_close(twin(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(twin(image_like(*shape)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_of_channels_last_is_torchs(dtype):
    norm = tiny.random_weights(GroupNorm32(64))
    x, scale, shift = 3 * noise(2, 64, 6, 10) + 2, noise(2, 64, seed=1), noise(2, 64, seed=2)
    expected = F.group_norm(x, 32, norm.weight, norm.bias) * scale[..., None, None] + shift[..., None, None]
    own = fast(norm)(x.to(dtype).contiguous(memory_format=torch.channels_last), scale, shift)
    assert own.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(own, expected.to(dtype), rtol=tolerance, atol=tolerance)


def test_gradients_of_reordering_go_back():
    rows, order = noise(7, 3).requires_grad_(), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    weight = noise(7, 3, seed=1)
    (own,) = torch.autograd.grad((reordered(rows, order, inverse(order)) * weight).sum(), rows)
    (plain,) = torch.autograd.grad((rows[order] * weight).sum(), rows)
    assert torch.equal(own, plain)


@pytest.mark.parametrize("changes", [{}, {"shift_mask": "textbook", "attention_resolutions": [32, 16]}])
def test_the_accelerated_denoiser_is_the_plain_one(changes):
    unet = tiny.random_weights(UNetModelSwin(**{**WIDE, **changes}))
    inputs = noise(2, 48, 32, 64), torch.tensor([3, 1]), noise(2, 96, 32, 64, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(accelerated(unet)(*inputs), unet(*inputs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_strips_join_to_the_whole(scale, monkeypatch):
    unet = accelerated(tiny.random_weights(UNetModelSwin(**{**WIDE, "scale": scale, "in_channels": 3 * scale**2})))
    inputs = noise(2, 3 * scale**2, 64, 32), torch.tensor([2, 1]), noise(2, 6 * scale**2, 64, 32, seed=1)
    whole = unet(*inputs)
    for rows in (8, 20):
        monkeypatch.setattr("upsr.accelerate.networks._STRIP_VALUES", rows * 32 * 64 * scale**2)
        torch.testing.assert_close(unet(*inputs), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(16, 24), (19, 30)])
@pytest.mark.parametrize(
    "network", [ATD(**tiny.ATD), CompactSR(num_feat=16, num_block=2), CompactSR(num_feat=20, num_block=1)]
)
def test_the_accelerated_g_is_the_plain_one(network, size):
    g = tiny.random_weights(network)
    lq = torch.rand(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(accelerated(g)(lq), g(lq), rtol=0, atol=1e-5)


def foreign(architecture, **arguments):
    """A network of spandrel with random weights, as it is read from a file."""
    module = pytest.importorskip(f"spandrel.architectures.{architecture}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        network = tiny.random_weights(getattr(module, architecture)(**arguments))
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        return SpandrelSR(str(path)).eval()


@pytest.mark.parametrize("size", [(32, 40), (19, 30)])
@pytest.mark.parametrize(
    ("architecture", "arguments", "exchanged"),
    [
        ("ESRGAN", {"num_filters": 32, "num_blocks": 1}, 21),
        ("Compact", {"num_feat": 32, "num_conv": 2}, 4),
        ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "upscale": 2, "feature_channels": 32, "norm": False}, 21),
        ("PLKSR", {"dim": 32, "n_blocks": 2, "kernel_size": 5, "split_ratio": 0.5}, 6),
        ("MoSR", {"dim": 32, "n_block": 2}, 10),
    ],
)
def test_convolutions_of_networks_that_spandrel_reads_are_exchanged(architecture, arguments, exchanged, size):
    g = foreign(architecture, **arguments)
    lq = torch.rand(2, 3, *size)
    with torch.inference_mode():
        before = g(lq.clone())
        fast = accelerated(g)
        torch.testing.assert_close(fast(lq.clone()), before, rtol=0, atol=1e-5)
        assert torch.equal(torch.cat([fast(one) for one in lq.clone().split(1)]), fast(lq.clone()))
        assert torch.equal(g(lq.clone()), before)
    assert sum(isinstance(module, Twin) for module in fast.modules()) == exchanged
    assert not any(isinstance(module, Twin) for module in g.modules())


def test_other_networks_that_spandrel_reads_stay_as_they_are():
    g = foreign("OmniSR", num_feat=16, res_num=1, block_num=1, window_size=8)
    assert any(type(module) is nn.Conv2d and module.kernel_size == (3, 3) for module in g.modules())
    assert accelerated(g) is g


@pytest.mark.parametrize(
    "changes",
    [{"padding_mode": "reflect"}, {"dilation": 2, "padding": 1}, {"bias": False}, {"stride": (1, 2)}, {"groups": 2}],
)
def test_convolutions_of_other_forms_are_not_exchanged(changes):
    g = foreign("Compact", num_feat=32, num_conv=2)
    odd = nn.Conv2d(32, 32, 3, **{"padding": 1, **changes})
    g.network.body[2] = odd
    assert type(accelerated(g).network.body[2]) is nn.Conv2d


def test_a_twin_made_after_a_change_of_the_weights_has_them():
    unet, inputs = (
        tiny.random_weights(UNetModelSwin(**WIDE)),
        (noise(1, 48, 32, 32), torch.tensor([2]), noise(1, 96, 32, 32)),
    )
    before = accelerated(unet)(*inputs)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.1)
        after = accelerated(unet)(*inputs)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, unet(*inputs), rtol=0, atol=1e-4)


def test_every_layer_with_a_twin_is_exchanged_once():
    unet = UNetModelSwin(**WIDE)
    twin = accelerated(unet)
    kinds = (nn.Linear, nn.Conv2d, GroupNorm32)
    assert all(isinstance(m, Twin) for m in twin.modules() if isinstance(m, kinds))
    assert not any(isinstance(m, Twin) for m in unet.modules())
    assert accelerated(twin) is twin
    assert not twin.training
    other = nn.Sequential(conv3x3(8, 8))
    assert accelerated(other) is other


@pytest.fixture(scope="module")
def model():
    """A small model whose convolutions are wide enough for all fast forms."""
    torch.manual_seed(0)
    return UPSR(
        tiny.random_weights(UNetModelSwin(**WIDE)), tiny.random_weights(ATD(**tiny.ATD)),
        ResidualShift(exponential_sqrt_etas(5, kappa=2.0), 2.0), Sampling((4, 3, 2, 1, 0), UncertaintyWeight()),
        sr_condition=True, trained=(0, 5),
    ).eval()  # fmt: skip


def test_the_accelerated_restoration_is_the_plain_one(model):
    g = ATD(**tiny.ATD).eval()
    g.load_state_dict(model.g.network.state_dict())
    lq, field = torch.rand(1, 3, 32, 32), noise(1, 48, 32, 32)
    expected = plain_restore(model, model.denoiser, g, lq, field)
    own = model.for_inference(torch.float32).restore(lq, lambda k: field)
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3), (torch.int8, 1e-4)])
def test_what_depends_on_the_condition_alone_is_computed_once(model, dtype, close):
    network, lq = model.for_inference(dtype).denoiser, noise(2, 96, 64, 32)
    given = network.given(lq)
    assert isinstance(given.input_blocks[0][0], GivenFirstConv)
    assert isinstance(network.input_blocks[0][0], ConditionedConv)
    for step in (4, 3):
        x, t = noise(2, 48, 64, 32), torch.full((2,), step)
        torch.testing.assert_close(given(x, t, torch.full_like(lq, torch.nan)), network(x, t, lq), rtol=0, atol=close)
    assert model.denoiser.given(lq) is model.denoiser


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_does_not_change_a_bit(model, dtype):
    lq, field, before = torch.rand(1, 3, 64, 32), noise(1, 48, 64, 32), torch.get_num_threads()
    working = model.for_inference(dtype)
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.inference_mode():
                results.append(working.restore(lq, lambda k: field))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_others_of_a_batch_do_not_change_a_bit(model, dtype):
    lq, field = torch.rand(3, 3, 64, 32), noise(3, 48, 64, 32)
    working = model.for_inference(dtype)
    with torch.inference_mode():
        together = working.restore(lq, lambda k: field)
        alone = working.restore(lq[1:2], lambda k: field[1:2])
    assert torch.equal(together[1:2], alone)


def test_other_precisions_are_views_that_leave_the_model_alone(model):
    lq, field = torch.rand(1, 3, 32, 32), noise(1, 48, 32, 32)
    low = model.for_inference(torch.bfloat16)
    with torch.inference_mode():
        full, half = (m.restore(lq, lambda k: field) for m in (model, low))
    assert model.denoiser.conv_hr.weight.dtype == torch.float32
    assert low.denoiser.conv_hr.weight.dtype == torch.bfloat16
    assert low.g.network is model.g.network
    assert 0 < (full - half).abs().mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_can_be_kept_in_eight_bits(model, dtype):
    lq, field = torch.rand(1, 3, 32, 32), noise(1, 48, 32, 32)
    small = model.for_inference(dtype)
    with torch.inference_mode():
        full, rounded = (m.restore(lq, lambda k: field) for m in (model, small))
    assert 0 < (full - rounded).abs().mean() < 0.1
    sizes = [sum(v.numel() * v.element_size() for v in m.denoiser.state_dict().values()) for m in (model, small)]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.slow
def test_compiled_denoisers_are_compiled_for_few_sizes(model, caplog, monkeypatch):
    monkeypatch.setattr("upsr.accelerate.compiled._MOST_SIZES", 2)
    network = accelerated(model.denoiser)
    inputs = (noise(1, 48, 32, 32), torch.tensor([2]), noise(1, 96, 32, 32, seed=1))
    built = []

    def backend(graph, example):
        built.append(graph)
        return graph.forward

    view = Compiled(network, backend=backend)
    with torch.inference_mode(), caplog.at_level("INFO", "upsr"):
        for _ in range(2):
            torch.testing.assert_close(view(*inputs), network(*inputs), rtol=0, atol=1e-4)
        assert view.given(inputs[2]) is view
        for batch in range(2, 5):
            many = [x.expand(batch, *x.shape[1:]) for x in inputs]
            torch.testing.assert_close(view(*many), network(*many), rtol=0, atol=1e-4)
    assert len(built) == 2  # one whole graph for each of the first sizes
    assert [record.message.split(" in ")[0] for record in caplog.records] == [
        f"compiled for {batch} x 32 x 32" for batch in range(1, 3)
    ]


def test_what_cannot_be_compiled_is_said_in_one_line(model):
    def backend(graph, example):
        raise RuntimeError("no compiler here")

    view = Compiled(model.denoiser, backend=backend)
    with (
        torch.inference_mode(),
        pytest.raises(UpsrError, match=r"could not be compiled .*no compiler here\).*--compile none"),
    ):
        view(noise(1, 48, 32, 32), torch.tensor([2]), noise(1, 96, 32, 32))


def test_buffers_are_kept_as_long_as_anybody_works(monkeypatch):
    told = []
    monkeypatch.setattr(
        "upsr.accelerate.allocator._mallopt", lambda: lambda parameter, value: told.append((parameter, value))
    )
    working, usual = (list(settings.items()) for settings in (allocator._WORKING, allocator._USUAL))
    with kept_buffers(64 * 64):
        assert told == working
        with pytest.raises(ZeroDivisionError), kept_buffers(384 * 256):
            _ = 1 / 0
        assert told == working
    assert told == working + usual
    with kept_buffers(385 * 256):
        assert told == working + usual


def test_the_allocator_is_told_what_it_knows():
    with kept_buffers(1):
        big = torch.empty(1 << 25).fill_(1.0)
    assert float(big.sum()) == 1 << 25


def test_the_harness_measures_both_sides_and_their_difference():
    a = noise(64, 64)
    case = Case("product", lambda: a @ a, lambda: a @ a + 1, traffic=traffic_of(torch.nn.Linear(64, 64), a))
    report = measure([case], Limits(CPU), rounds=3, warmup=1)
    (row,) = report.rows
    assert len(row.ours) == len(row.plain) == len(row.ratios) == 3
    assert row.difference == pytest.approx(1.0)
    assert row.gflop == pytest.approx(2 * 64**3 / 1e9)
    assert row.limit > 0
    assert "product" in report.markdown()


def results(path: Path, **ratios):
    rows = [{"name": name, "ratio": ratio, "median": 0.5} for name, ratio in ratios.items()]
    path.write_text(json.dumps({"limits": {"float32 GFLOP/s": 100.0}, "rows": rows}))
    return path


def test_the_guard_names_what_got_slower(tmp_path, capsys, monkeypatch):
    old = results(tmp_path / "old.json", denoiser=2.0, g=3.0, alone=None)
    for name, new, code in (
        ("same", {"denoiser": 2.0, "g": 2.95, "alone": None}, 0),
        ("slower", {"denoiser": 1.5, "g": 3.1, "alone": None}, 1),
        ("other", {"nothing": 1.0}, 2),
    ):
        monkeypatch.setattr(sys, "argv", ["check.py", str(old), str(results(tmp_path / f"{name}.json", **new))])
        assert check.main() == code
        if code == 1:
            assert "slower: denoiser (25% slower)" in capsys.readouterr().err
    (tmp_path / "text.json").write_text("no results")
    monkeypatch.setattr(sys, "argv", ["check.py", str(old), str(tmp_path / "text.json")])
    assert check.main() == 2


def test_sections_of_the_benchmark_give_cases(monkeypatch):
    setting = Setting(CPU, torch.float32, [64], [1, 2], "none")
    assert set(SECTIONS) >= {"denoiser", "g", "restore", "data", "degradation", "train"}
    names = [name for _, _, name in setting.each()]
    assert names == ["1 x 64 x 64, float32", "2 x 64 x 64, float32"]


def test_the_benchmark_says_what_sections_there_are():
    script = Path(__file__).parents[1] / "benchmarks" / "run.py"
    done = subprocess.run([sys.executable, str(script), "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no section nothing; there are denoiser, g, restore" in done.stderr
