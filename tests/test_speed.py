"""What is fast gives what is plain: convolutions, norms, networks, restoration; and the benchmarks that say how fast."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import check
import pytest
import torch
import torch.nn.functional as F
from cases import SECTIONS, Setting, plain_of
from harness import Case, measure
from limits import Limits, traffic_of
from plain import PlainATD, PlainUNet, plain_restore
from torch import nn

from tests import tiny
from upsr import allocator
from upsr.accelerate.compiled import compiled
from upsr.allocator import kept_buffers
from upsr.archs import ATD, UNetModelSwin
from upsr.archs.convolution import Conv3x3, DoublingConv, ImageConv
from upsr.archs.derived import Derived
from upsr.archs.packed import PointwiseConv
from upsr.archs.precision import lower
from upsr.archs.reorder import inverse, reordered
from upsr.archs.swin_unet_arch import GroupNorm32
from upsr.archs.winograd import winograd, winograd_weight
from upsr.diffusion import ResidualShift, exponential_sqrt_etas
from upsr.errors import UpsrError
from upsr.methods.upsr.method import UPSR, Sampling
from upsr.methods.upsr.uncertainty import UncertaintyWeight

CPU = torch.device("cpu")
WIDE = {**tiny.UNET, "image_size": 32, "model_channels": 64, "swin_embed_dim": 64, "num_feat": 64}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image_like(*shape, seed=0):
    return noise(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("on_intel", [True, False])
@pytest.mark.parametrize("shape", [(1, 64, 32, 32), (2, 80, 33, 50), (1, 64, 5, 400), (3, 64, 4, 4)])
def test_winograd_is_the_convolution(shape, on_intel, monkeypatch):
    monkeypatch.setattr("upsr.archs.packed._torchs_products_are_fastest", lambda: on_intel)
    layer, x = Conv3x3(shape[1], 72), image_like(*shape)
    expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    with torch.no_grad():
        weight = winograd_weight(layer.weight, 64)
        whole = winograd(x, weight, layer.bias)
        monkeypatch.setattr("upsr.archs.winograd._BAND_VALUES", 10**9)
        at_once = winograd(x, weight, layer.bias)
    torch.testing.assert_close(whole.double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(at_once.double(), expected, rtol=0, atol=2e-5)


def test_winograd_runs_where_it_pays_and_nowhere_else(monkeypatch):
    calls = []
    monkeypatch.setattr("upsr.archs.convolution.winograd", lambda x, weight, bias: calls.append(x.shape) or x)
    layer, narrow, strided = Conv3x3(64, 64), Conv3x3(32, 64), Conv3x3(64, 64, stride=2)
    layer(image_like(1, 64, 32, 32))
    with torch.no_grad():
        narrow(image_like(1, 32, 32, 32))
        strided(image_like(1, 64, 64, 64))
        layer(image_like(1, 64, 8, 8))
        layer.bfloat16()(image_like(1, 64, 32, 32).bfloat16())
        assert calls == []
        layer.float()(image_like(1, 64, 32, 32))
        layer(noise(1, 64, 32, 32))
    assert calls == [(1, 64, 32, 32)] * 2


LAYERS = {
    "convolution": lambda: Conv3x3(48, 40),
    "strided": lambda: Conv3x3(48, 40, stride=2),
    "by Winograd": lambda: Conv3x3(80, 72),
    "doubling": lambda: DoublingConv(48, 40),
    "to an image": lambda: ImageConv(48, 3),
    "pointwise": lambda: PointwiseConv(48, 40),
}


def map_for(layer, dtype=torch.float32):
    return image_like(2, layer.in_channels, 32, 36).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_weights_give_what_the_layer_gives(name, dtype):
    layer = LAYERS[name]().to(dtype)
    x = map_for(layer, dtype)
    expected = copy.deepcopy(layer).double()(x.double()).detach()
    with torch.no_grad():
        own, again, single = layer(x), layer(x), layer(x[1:].contiguous(memory_format=torch.channels_last))
    assert torch.equal(own, again)
    assert torch.equal(own[1:], single)
    assert own.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(own.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_packed_weights_follow_the_layer(name):
    layer, other = LAYERS[name](), LAYERS[name]()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    x = map_for(layer)
    with torch.no_grad():
        before = layer(x)
    layer(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        trained = layer(x)
        assert (trained - before).abs().max() > 0.1
        fresh = copy.deepcopy(layer)
        assert torch.equal(fresh(x), trained)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), other(x))
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), other(x))
    assert not [key for key in layer.state_dict() if "packed" in key or "transformed" in key]


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_packed_that_should_not_be(name):
    layer, low = LAYERS[name](), nn.ModuleDict({"layer": LAYERS[name]()})
    lower(low, torch.int8, ())
    x = map_for(layer)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        layer(x)
    layer(x)
    with torch.no_grad():
        low["layer"](x)
    kept = [m._kept for part in (layer, low) for m in part.modules() if isinstance(m, Derived)]
    assert kept
    assert not any(kept)


@pytest.mark.parametrize("shape", [(2, 6, 15, 19), (1, 8, 1, 300), (1, 4, 3, 3)])
def test_doubling_convolution_is_the_convolution_of_the_doubled(shape):
    layer = DoublingConv(shape[1], 5)
    x = noise(*shape)
    expected = layer(x)
    assert expected.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer(image_like(*shape)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_of_channels_last_is_torchs(dtype):
    norm = tiny.random_weights(GroupNorm32(64))
    x, scale, shift = 3 * noise(2, 64, 6, 10) + 2, noise(2, 64, seed=1), noise(2, 64, seed=2)
    expected = F.group_norm(x, 32, norm.weight, norm.bias) * scale[..., None, None] + shift[..., None, None]
    with torch.no_grad():
        own = norm(x.to(dtype).contiguous(memory_format=torch.channels_last), scale, shift)
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
def test_the_plain_denoiser_is_ours(changes):
    given = {**WIDE, **changes}
    unet = tiny.random_weights(UNetModelSwin(**given))
    plain = plain_of(PlainUNet, unet, UNetModelSwin, given)
    inputs = noise(2, 48, 32, 64), torch.tensor([3, 1]), noise(2, 96, 32, 64, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(unet(*inputs), plain(*inputs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_strips_join_to_the_whole(scale, monkeypatch):
    unet = tiny.random_weights(UNetModelSwin(**{**WIDE, "scale": scale, "in_channels": 3 * scale**2}))
    inputs = noise(2, 3 * scale**2, 64, 32), torch.tensor([2, 1]), noise(2, 6 * scale**2, 64, 32, seed=1)
    with torch.no_grad():
        whole = unet(*inputs)
        for rows in (8, 20):
            monkeypatch.setattr("upsr.archs.swin_unet_arch._STRIP_VALUES", rows * 32 * 64 * scale**2)
            torch.testing.assert_close(unet(*inputs), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(16, 24), (19, 30)])
def test_the_plain_g_is_ours(size):
    g = tiny.random_weights(ATD(**tiny.ATD))
    plain, lq = plain_of(PlainATD, g, ATD, tiny.ATD), torch.rand(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(g(lq), plain(lq), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    """A small model whose convolutions are wide enough for all fast forms."""
    return UPSR(
        tiny.random_weights(UNetModelSwin(**WIDE)), tiny.random_weights(ATD(**tiny.ATD)),
        ResidualShift(exponential_sqrt_etas(5, kappa=2.0), 2.0), Sampling((4, 3, 2, 1, 0), UncertaintyWeight()),
        sr_condition=True, trained=(0, 5),
    ).eval()  # fmt: skip


def test_the_plain_restoration_is_ours(model):
    unet = plain_of(PlainUNet, model.denoiser, UNetModelSwin, WIDE)
    g = plain_of(PlainATD, model.g.network, ATD, tiny.ATD)
    lq, field = torch.rand(1, 3, 32, 32), noise(1, 48, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.restore(lq, lambda k: field), plain_restore(model, unet, g, lq, field), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3), (torch.int8, 1e-4)])
@pytest.mark.parametrize("gradients", [False, True])
def test_what_depends_on_the_condition_alone_is_computed_once(model, dtype, close, gradients, monkeypatch):
    network = model.for_inference(dtype).denoiser
    first, lq = network.input_blocks[0][0], noise(2, 96, 64, 32)
    shares, share = [], first.share
    monkeypatch.setattr(first, "share", lambda cond: shares.append(share(cond)) or shares[-1])
    with torch.set_grad_enabled(gradients):
        prepared = network.prepared(lq)
        for step in (4, 3):
            x, t = noise(2, 48, 64, 32), torch.full((2,), step)
            torch.testing.assert_close(network(x, t, prepared), network(x, t, lq), rtol=0, atol=close)
    assert len(shares) == 1


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


def test_compiled_denoisers_are_compiled_for_few_sizes(model, caplog, monkeypatch):
    monkeypatch.setattr("upsr.accelerate.compiled._MOST_SIZES", 2)
    network, inputs = model.denoiser, (noise(1, 48, 32, 32), torch.tensor([2]), noise(1, 96, 32, 32, seed=1))
    built = []

    def backend(graph, example):
        built.append(graph)
        return graph.forward

    view = compiled(network, backend=backend)
    with torch.inference_mode(), caplog.at_level("INFO", "upsr"):
        for _ in range(2):
            torch.testing.assert_close(view(*inputs), network(*inputs), rtol=0, atol=1e-4)
        assert view.prepared(inputs[2]) is inputs[2]
        for batch in range(2, 5):
            many = [x.expand(batch, *x.shape[1:]) for x in inputs]
            torch.testing.assert_close(view(*many), network(*many), rtol=0, atol=1e-4)
    assert len(built) == 2  # one whole graph for each of the first sizes
    assert [record.message.split(" in ")[0] for record in caplog.records] == [
        f"compiled for {batch} x 32 x 32" for batch in range(1, 3)
    ]
    assert "forward" not in vars(network)


def test_what_cannot_be_compiled_is_said_in_one_line(model):
    def backend(graph, example):
        raise RuntimeError("no compiler here")

    view = compiled(model.denoiser, backend=backend)
    with (
        torch.inference_mode(),
        pytest.raises(UpsrError, match=r"could not be compiled .*no compiler here\).*--compile none"),
    ):
        view(noise(1, 48, 32, 32), torch.tensor([2]), noise(1, 96, 32, 32))


def test_buffers_are_kept_as_long_as_anybody_works(monkeypatch):
    told = []
    monkeypatch.setattr("upsr.allocator._mallopt", lambda: lambda parameter, value: told.append((parameter, value)))
    working, usual = (list(settings.items()) for settings in (allocator._WORKING, allocator._USUAL))
    with kept_buffers(64 * 64):
        assert told == working
        with pytest.raises(ZeroDivisionError), kept_buffers(256 * 256):
            _ = 1 / 0
        assert told == working
    assert told == working + usual
    with kept_buffers(257 * 256):
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
