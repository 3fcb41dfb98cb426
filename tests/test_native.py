"""The compiled attention: what torch's gives, whatever the threads, the neighbours and the processor's vectors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from tests import tiny
from upsr.accelerate import accelerated, native
from upsr.archs import ATD
from upsr.archs.atd import CategoryAttention
from upsr.archs.window_attention import masked_bias, textbook_shift_masks, window_attention

pytestmark = pytest.mark.skipif(isinstance(native.kernel(), str), reason=f"the compiled attention: {native.kernel()}")


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


def test_neither_threads_nor_neighbours_nor_the_vectors_change_a_bit(monkeypatch):
    qkv, places = drawn(8 * 64, 3 * 48), torch.randperm(8 * 64, generator=torch.Generator().manual_seed(0))
    bias = prepared(drawn(2, 64, 64, seed=1))
    expected = native.attention(qkv, places, [8], bias, heads=2, scale=0.2)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(native.attention(qkv, places, [8], bias, heads=2, scale=0.2), expected)
    assert torch.equal(native.attention(qkv, places, [3, 5], bias * 2, heads=2, scale=0.2), expected)
    alone = native.attention(qkv[places[:64]], torch.arange(64), [1], bias, heads=2, scale=0.2)
    assert torch.equal(alone, expected[places[:64]])
    function, width = native.kernel()
    if width == 512:
        monkeypatch.setattr(native, "kernel", lambda: (function, 256))
        assert torch.equal(native.attention(qkv, places, [8], bias, heads=2, scale=0.2), expected)


@pytest.mark.parametrize(
    ("qkv", "tokens"),
    [
        (drawn(64, 48, dtype=torch.bfloat16), 32),
        (drawn(64, 48, dtype=torch.float64), 32),
        (drawn(64, 36), 32),
        (drawn(64, 48), 16),
        (drawn(64, 48).requires_grad_(), 32),
        (drawn(64, 48).to("meta"), 32),
    ],
    ids=["bfloat16", "float64", "12 channels a head", "16 tokens", "gradients", "another device"],
)
def test_what_it_does_not_take(qkv, tokens):
    assert native.takes(drawn(64, 48), 32, 1)
    assert not native.takes(qkv, tokens, 1)


def test_without_it_torch_computes_the_same_up_to_rounding(monkeypatch):
    network = tiny.random_weights(
        ATD(embed_dim=32, depths=[2], num_heads=2, window_size=8, category_size=32, num_tokens=8)
    ).eval()
    lq, calls = tiny.image(24, 32), []
    attention = native.attention
    monkeypatch.setattr(native, "attention", lambda *args, **kwargs: calls.append(0) or attention(*args, **kwargs))
    with torch.no_grad():
        ours = accelerated(copy.deepcopy(network))(lq)
        assert len(calls) == 4  # windows and categories of two layers
        monkeypatch.setattr(native, "kernel", lambda: "not built")
        torchs = accelerated(copy.deepcopy(network))(lq)
    assert len(calls) == 4
    torch.testing.assert_close(ours, torchs, atol=2e-5, rtol=1e-5)


def test_where_it_is_not_built_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    native.kernel.cache_clear()
    try:
        assert "C++ compiler" in native.kernel()
        (tmp_path / f"_attention{native.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
        native.kernel.cache_clear()
        assert native.kernel().startswith("cannot be loaded: ")
    finally:
        native.kernel.cache_clear()
