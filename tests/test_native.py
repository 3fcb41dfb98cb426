"""The compiled kernels: what torch gives, whatever the threads, the neighbours and the processor's vectors."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests import tiny
from upsr.accelerate import accelerated
from upsr.accelerate.native import attention as native
from upsr.accelerate.native import library
from upsr.accelerate.native import norm as native_norm
from upsr.accelerate.native import normal as native_normal
from upsr.accelerate.native import winograd as native_winograd
from upsr.archs import ATD, UNetModelSwin
from upsr.archs.atd import CategoryAttention
from upsr.archs.window_attention import masked_bias, textbook_shift_masks, window_attention
from upsr.devices import CPU
from upsr.philox import normal_field
from upsr.restoring.noise import CounterNoise
from upsr.tiling.scratch import Scratch

pytestmark = pytest.mark.skipif(isinstance(library.kernels(), str), reason=f"own kernels: {library.kernels()}")


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(qkv: Tensor, places: Tensor, tokens: int, heads: int, bias: Tensor | None, scale: float) -> Tensor:
    """By products and softmax in float64."""
    groups = qkv.double()[places].view(-1, tokens, 3, heads, qkv.shape[1] // (3 * heads))
    q, k, v = groups.permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-2, -1) * scale
    out = (logits if bias is None else logits + bias.double()).softmax(-1) @ v
    rows = out.transpose(1, 2).flatten(0, 1).flatten(1)
    return torch.empty_like(rows).index_copy_(0, places, rows)


def prepared(bias: Tensor | None) -> list[Tensor | None]:
    return [None] if bias is None else list(native.kernels_bias([[bias]])[1])


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("groups", "tokens", "heads", "dim"),
    [(3, 32, 1, 8), (2, 64, 6, 32), (4, 128, 4, 24), (2, 256, 2, 24), (1, 96, 3, 40)],
)
def test_it_is_the_attention_of_products_and_softmax(groups, tokens, heads, dim, with_bias):
    qkv, places = drawn(groups * tokens, 3 * heads * dim), torch.randperm(groups * tokens)
    bias = drawn(heads, tokens, tokens, seed=1) if with_bias else None
    assert native.takes(qkv, tokens, heads)
    out = native.attention(qkv, places, [groups], prepared(bias), heads=heads, scale=0.3)
    torch.testing.assert_close(out.double(), exact(qkv, places, tokens, heads, bias, 0.3), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 30.0, 3000.0])
def test_logits_of_any_size(size):
    qkv, places = drawn(64, 3 * 16, dtype=torch.float64), torch.arange(64)
    qkv[:, :16] *= size
    out = native.attention(qkv.float(), places, [1], [None], heads=2, scale=1.0)
    # A logit's own rounding in float32 is a part of its size: that much a weight may be wrong.
    logits = float(torch.finfo(torch.float32).eps * (qkv[:, :16].abs().max() * 16))
    assert float((out.double() - exact(qkv.float(), places, 64, 2, None, 1.0)).abs().max()) < 2e-6 + 4 * logits


def test_masked_keys_have_no_weight():
    qkv = drawn(32, 3 * 8)
    masks = torch.zeros(1, 32, 32)
    masks[:, :, 16:] = -100.0
    out = native.attention(qkv, torch.arange(32), [1], prepared(masks), heads=1, scale=1.0)
    seen = exact(qkv[:16], torch.arange(16), 16, 1, None, 1.0)
    torch.testing.assert_close(out[:16].double(), seen, atol=2e-6, rtol=0)


def test_what_is_no_number_stays_none():
    qkv = drawn(64, 3 * 8)
    qkv[3, 8] = math.nan  # a key of the first group
    out = native.attention(qkv, torch.arange(64), [2], [None], heads=1, scale=1.0)
    assert out[:32].isnan().all()
    assert not out[32:].isnan().any()


@pytest.mark.parametrize("shift", [0, 4])
def test_windows_of_every_kind(shift):
    qkv = drawn(2, 24, 16, 3 * 32)
    bias = masked_bias(drawn(4, 64, 64, seed=1), textbook_shift_masks(8, shift) if shift else None)
    layout = {"heads": 4, "window": 8, "shift": shift}
    found = native.window_attention(qkv, native.kernels_bias(bias), **layout)
    torch.testing.assert_close(found, window_attention(qkv, bias, **layout), atol=2e-6, rtol=1e-5)


def test_categories_of_each_image_of_a_batch():
    plain = tiny.random_weights(CategoryAttention(48, 2, 32), seed=0).eval()
    network = ATD(embed_dim=48, depths=[2], num_heads=2, window_size=8, category_size=32, num_tokens=16).eval()
    network.layers[0].residual_group.layers[0].attn_aca = plain
    fast = accelerated(network).layers[0].residual_group.layers[0].attn_aca
    qkv, similarity = drawn(2, 96, 144), drawn(2, 96, 16, seed=1).softmax(-1)
    with torch.no_grad():
        torch.testing.assert_close(fast(qkv, similarity), plain(qkv, similarity), atol=1e-4, rtol=1e-4)


def whatever(monkeypatch, compute: Callable[[], Tensor]) -> Iterator[Tensor]:
    """Results of one, two and five threads, and of the shorter vectors."""
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        yield compute()
    found = library.kernels()
    monkeypatch.setattr(library, "kernels", lambda: dataclasses.replace(found, width=256))
    yield compute()


def test_neither_threads_nor_neighbours_nor_the_vectors_change_a_bit_of_attention(monkeypatch):
    qkv, places = drawn(8 * 64, 3 * 48), torch.randperm(8 * 64, generator=torch.Generator().manual_seed(0))
    bias = prepared(drawn(2, 64, 64, seed=1))
    expected = native.attention(qkv, places, [8], bias, heads=2, scale=0.2)
    assert torch.equal(native.attention(qkv, places, [3, 5], bias * 2, heads=2, scale=0.2), expected)
    alone = native.attention(qkv[places[:64]], torch.arange(64), [1], bias, heads=2, scale=0.2)
    assert torch.equal(alone, expected[places[:64]])
    for found in whatever(monkeypatch, lambda: native.attention(qkv, places, [8], bias, heads=2, scale=0.2)):
        assert torch.equal(found, expected)


def test_attention_in_bfloat16_rounds_once():
    qkv, places, bias = drawn(128, 3 * 16, dtype=torch.bfloat16), torch.randperm(128), drawn(2, 64, 64, seed=1)
    narrow = native.attention(qkv, places, [2], prepared(bias), heads=2, scale=0.3)
    wide = native.attention(qkv.float(), places, [2], prepared(bias), heads=2, scale=0.3)
    assert torch.equal(narrow, wide.to(torch.bfloat16))


def map_of(*shape: int, seed: int = 0) -> Tensor:
    return drawn(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return native_winograd.conv(x, native_winograd.kernels_weight(weight), bias)


@pytest.mark.parametrize(
    ("shape", "outputs"), [((1, 16, 16, 16), 16), ((2, 32, 18, 23), 48), ((1, 64, 40, 33), 64), ((3, 48, 17, 16), 80)]
)
def test_winograd_s_convolution_is_the_convolution(shape, outputs):
    x, weight, bias = (
        map_of(*shape),
        drawn(outputs, shape[1], 3, 3, seed=1) / (3 * shape[1] ** 0.5),
        drawn(outputs, seed=2),
    )
    assert native_winograd.takes(x, outputs)
    out = convolved(x, weight, bias)
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(out.double(), exact, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("shape", "outputs"), [((1, 16, 16, 16), 16), ((2, 32, 18, 23), 48)])
def test_the_convolution_of_the_doubled_map(shape, outputs):
    x, weight, bias = (
        map_of(*shape),
        drawn(outputs, shape[1], 3, 3, seed=1) / (3 * shape[1] ** 0.5),
        drawn(outputs, seed=2),
    )
    out = native_winograd.conv(x, native_winograd.doubling_weight(weight), bias, scale=2)
    doubled = F.interpolate(x.double(), scale_factor=2, mode="nearest")
    exact = F.conv2d(doubled, weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(out.double(), exact, atol=2e-5, rtol=1e-5)


def test_neither_threads_nor_neighbours_nor_the_vectors_change_a_bit_of_a_convolution(monkeypatch):
    x, weight, bias = map_of(2, 32, 44, 38), drawn(48, 32, 3, 3, seed=1), drawn(48, seed=2)
    expected = convolved(x, weight, bias)
    assert torch.equal(convolved(x[1:], weight, bias), expected[1:])
    for found in whatever(monkeypatch, lambda: convolved(x, weight, bias)):
        assert torch.equal(found, expected)


def test_a_convolution_in_bfloat16_rounds_once():
    x, weight, bias = map_of(1, 32, 21, 18).to(torch.bfloat16), drawn(48, 32, 3, 3, seed=1), drawn(48, seed=2)
    assert torch.equal(convolved(x, weight, bias), convolved(x.float(), weight, bias).to(torch.bfloat16))


def test_what_is_no_number_reaches_the_pixels_around_it_and_no_others():
    x = map_of(1, 16, 16, 16)
    x[0, 3, 9, 9] = math.nan
    out = convolved(x, drawn(16, 16, 3, 3, seed=1), drawn(16, seed=2))
    assert out[..., 8:11, 8:11].isnan().all()
    assert not out[..., :8, :].isnan().any()  # tiles of 4 x 4 that do not touch it
    assert not out[..., 12:, :].isnan().any()


@pytest.mark.parametrize(
    ("x", "outputs"),
    [
        (map_of(1, 24, 16, 16), 16),
        (map_of(1, 16, 16, 16), 24),
        (map_of(1, 16, 12, 16), 16),
        (map_of(1, 16, 16, 16).half(), 16),
        (map_of(1, 16, 16, 16).requires_grad_(), 16),
    ],
    ids=["24 channels", "24 outputs", "few tiles", "float16", "gradients"],
)
def test_convolutions_that_it_does_not_take(x, outputs):
    assert native_winograd.takes(map_of(1, 16, 16, 16), 16)
    assert not native_winograd.takes(x, outputs)


def test_bfloat16_is_left_to_matrix_units(monkeypatch):
    x = drawn(8).to(torch.bfloat16)
    monkeypatch.setattr(library, "_has_matrix_units", lambda: False)
    assert library.take(x)
    monkeypatch.setattr(library, "_has_matrix_units", lambda: True)
    assert not library.take(x)
    assert library.take(x.float())


@pytest.mark.parametrize(
    ("qkv", "tokens"),
    [
        (drawn(64, 48, dtype=torch.float64), 32),
        (drawn(64, 36), 32),
        (drawn(64, 48), 16),
        (drawn(64, 48).requires_grad_(), 32),
        (drawn(64, 48).to("meta"), 32),
    ],
    ids=["float64", "12 channels a head", "16 tokens", "gradients", "another device"],
)
def test_tokens_that_it_does_not_take(qkv, tokens):
    assert native.takes(drawn(64, 48), 32, 1)
    assert not native.takes(qkv, tokens, 1)


@pytest.mark.parametrize(
    ("name", "dtype", "error"),
    # Rounding decides which category a token of g is of where two are equally near.
    [("g", torch.float32, 0.02), ("denoiser", torch.float32, 1e-5), ("denoiser", torch.bfloat16, 0.02)],
)
def test_without_them_torch_computes_the_same_up_to_rounding(monkeypatch, name, dtype, error):
    monkeypatch.setattr(library, "_has_matrix_units", lambda: False)
    sizes = {"image_size": 32, "model_channels": 64, "swin_embed_dim": 64, "num_feat": 48, "window_size": 8}
    g = ATD(embed_dim=32, depths=[2], num_heads=2, window_size=8, category_size=32, num_tokens=8)
    networks = {"g": g, "denoiser": UNetModelSwin(**{**tiny.UNET, **sizes})}
    state, timesteps = drawn(1, 48, 32, 64), torch.tensor([2])
    inputs = {"g": (tiny.image(24, 32),), "denoiser": (state, timesteps, drawn(1, 96, 32, 64, seed=1))}
    calls: list[str] = []
    call = library.call
    monkeypatch.setattr(
        library, "call", lambda name, *args, **kwargs: calls.append(name) or call(name, *args, **kwargs)
    )
    network = tiny.random_weights(networks[name])
    with torch.no_grad():
        ours = accelerated(copy.deepcopy(network), dtype)(*inputs[name])
        assert set(calls) == {"attention", "winograd", *(["norm"] if name == "denoiser" else [])}
        calls.clear()
        monkeypatch.setattr(library, "kernels", lambda: "not built")
        torchs = accelerated(copy.deepcopy(network), dtype)(*inputs[name])
    assert not calls
    difference = (ours - torchs).float().square().mean() / torchs.float().square().mean()
    assert float(difference.sqrt()) < error


def test_where_there_are_none_they_say_so(monkeypatch, tmp_path):
    built = Path(library.__file__)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    library.kernels.cache_clear()
    try:
        assert "C++ compiler" in library.kernels()
        (tmp_path / f"_kernels{library.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
        library.kernels.cache_clear()
        assert library.kernels().startswith("cannot be loaded: ")
        for path in built.parent.glob("*"):
            if path.is_file():
                shutil.copy(path, tmp_path)
        (tmp_path / "kernels.cpp").write_text("// other sources")
        library.kernels.cache_clear()
        assert library.kernels().startswith("built of other sources")
        for path in [*tmp_path.glob("*.cpp"), *tmp_path.glob("*.h")]:
            path.unlink()
        library.kernels.cache_clear()
        assert isinstance(library.kernels(), library.Kernels)  # as a wheel has it
    finally:
        library.kernels.cache_clear()


@pytest.mark.parametrize("far", [0.0, 1e4])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_norm_is_torch_s(far, scaled):
    x, weight, bias = map_of(2, 96, 19, 23) + far, drawn(96, seed=1), drawn(96, seed=2)
    scale, shift = (drawn(2, 96, seed=3), drawn(2, 96, seed=4)) if scaled else (None, None)
    out = native_norm.group_norm(x, 32, weight, bias, 1e-5, scale, shift)
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = F.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5)
    if scaled:
        exact = exact * scale.double()[..., None, None] + shift.double()[..., None, None]
    torch.testing.assert_close(out.double(), exact, atol=3e-6, rtol=1e-6)


def test_neither_threads_nor_neighbours_nor_the_vectors_change_a_bit_of_a_norm(monkeypatch):
    x, weight, bias = map_of(3, 64, 21, 17), drawn(64, seed=1), drawn(64, seed=2)
    expected = native_norm.group_norm(x, 32, weight, bias, 1e-5, None, None)
    assert torch.equal(native_norm.group_norm(x[1:2], 32, weight, bias, 1e-5, None, None), expected[1:2])
    for found in whatever(monkeypatch, lambda: native_norm.group_norm(x, 32, weight, bias, 1e-5, None, None)):
        assert torch.equal(found, expected)
    narrow = native_norm.group_norm(x.to(torch.bfloat16), 32, weight, bias, 1e-5, None, None)
    wide = native_norm.group_norm(x.to(torch.bfloat16).float(), 32, weight, bias, 1e-5, None, None)
    assert torch.equal(narrow, wide.to(torch.bfloat16))


@pytest.mark.parametrize("rows", [slice(0, 1), slice(13, 40)])
@pytest.mark.parametrize("columns", [slice(0, 4), slice(3, 5), slice(5, 46), slice(1000, 1101)])
def test_numbers_by_counters_are_those_of_torch_s_operators(rows, columns, monkeypatch):
    keys = [0, 2**64 - 1, 0x9E3779B97F4A7C15]
    expected = normal_field(keys, 5, rows, columns, CPU)
    assert torch.equal(native_normal.normal_field(keys, 5, rows, columns), expected)
    for found in whatever(monkeypatch, lambda: native_normal.normal_field(keys, 5, rows, columns)):
        assert torch.equal(found, expected)


def test_millions_of_numbers_by_counters_are_those_of_torch_s_operators():
    window = (3, slice(7, 1007), slice(0, 500))
    assert torch.equal(native_normal.normal_field([1, 2], *window), normal_field([1, 2], *window, CPU))


def test_a_restoration_draws_with_the_kernel(monkeypatch):
    drawn = []
    kernel = native_normal.normal_field
    monkeypatch.setattr(native_normal, "normal_field", lambda *window: drawn.append(window) or kernel(*window))
    field = CounterNoise(3, ["a"], (3, 9, 14), Scratch(CPU))(0)
    whole = field[...]
    assert torch.equal(field[..., 2:5, 3:9], whole[..., 2:5, 3:9])
    assert [window[1:] for window in drawn] == [(3, slice(0, 9), slice(0, 14)), (3, slice(2, 5), slice(3, 9))]
    monkeypatch.setattr(native_normal, "takes", lambda device: False)
    assert torch.equal(field[...], whole)
    assert len(drawn) == 2
