"""Numbers by counters: the published vectors, any window of a field, independent fields, and the normal distribution."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from tests import tiny
from tests.philox_vectors import VECTORS
from upsr.archs import ATD
from upsr.config.schema import TileOptions
from upsr.devices import CPU
from upsr.philox import normal_field, philox
from upsr.restoring.noise import CounterNoise
from upsr.restoring.restore import restore
from upsr.rng import derive_seed
from upsr.tiling.scratch import Scratch

SHAPE = (3, 61, 46)
ALL = (slice(0, SHAPE[1]), slice(0, SHAPE[2]))
WORDS = 0xFFFFFFFF


@pytest.fixture(params=["kernel", "operators"])
def drawn_by(request, monkeypatch):
    """Fields are drawn by the compiled kernel where there is one, or by torch's operators."""
    if request.param == "operators":
        monkeypatch.setattr("upsr.accelerate.native.normal.takes", lambda device: False)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_the_vectors_of_its_authors_come_out(counter, key, expected):
    found = philox([torch.tensor(word) for word in counter], [torch.tensor(word) for word in key])
    assert [int(word) for word in found] == expected


def independent(key, channels, rows, columns):
    """The same field by whole numbers of Python and NumPy's logarithms, one number after another."""
    field = np.empty((channels, rows, columns), np.float32)
    for channel, row, column in np.ndindex(field.shape):
        a, b, c, d, k, m = column // 4, row, channel, 0, key & WORDS, key >> 32
        for _ in range(10):
            p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
            a, b, c, d = (q >> 32) ^ b ^ k, q & WORDS, (p >> 32) ^ d ^ m, p & WORDS
            k, m = (k + 0x9E3779B9) & WORDS, (m + 0xBB67AE85) & WORDS
        first, second = ((a, b), (c, d))[column % 4 // 2]
        length = np.sqrt(-2 * np.log((first + 1) / 2**32))
        field[channel, row, column] = length * (np.cos, np.sin)[column % 2](2 * np.pi * second / 2**32)
    return field


def test_a_field_is_what_its_formula_says():
    key = derive_seed(0, "restore", "a.png", 1)
    own = normal_field([key], 2, slice(0, 7), slice(0, 9), CPU)[0]
    np.testing.assert_allclose(own.numpy(), independent(key, 2, 7, 9), rtol=0, atol=5e-7)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(13, 40), slice(60, 61)])
@pytest.mark.parametrize("columns", [slice(0, 4), slice(3, 5), slice(5, 46), slice(45, 46)])
def test_a_window_is_cut_from_the_field(rows, columns, drawn_by, monkeypatch):
    field = CounterNoise(3, ["a", "b"], SHAPE, Scratch(CPU))(0)
    whole = field[...]
    assert whole.shape == field.shape == (2, *SHAPE)
    monkeypatch.setattr("upsr.philox._AT_ONCE", 200)  # a few rows at a time
    assert torch.equal(field[..., rows, columns], whole[..., rows, columns])
    assert torch.equal(field[..., :, columns], whole[..., columns])


def test_an_image_s_field_does_not_depend_on_its_batch(drawn_by):
    both = CounterNoise(3, ["a", "b"], SHAPE, Scratch(CPU))(1)[...]
    for name, own in zip("ab", both, strict=True):
        assert torch.equal(CounterNoise(3, [name], SHAPE, Scratch(CPU))(1)[...][0], own)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_field_is_a_tensor_like_others(mode, drawn_by):
    """Methods of one's own compute with it as it comes."""
    with mode():
        field = CounterNoise(3, ["a", "b"], SHAPE, Scratch(CPU))(0)
        whole = field[...]
        assert (field.shape, field.dtype, field.device, type(whole)) == (
            whole.shape,
            whole.dtype,
            whole.device,
            torch.Tensor,
        )
        for operation in (
            lambda x: 0.5 * x, lambda x: whole - x, lambda x: torch.cat([whole, x]), lambda x: x.double(), lambda x: x[1],
            lambda x: x[:, :1, ::2], lambda x: x[..., 5:3, -9:], lambda x: x[..., -7:5000, 45:45],
            lambda x: x.unbind(1)[2], lambda x: torch.zeros_like(whole).copy_(x),
        ):  # fmt: skip
            result = operation(field)
            assert type(result) is torch.Tensor
            assert torch.equal(result, operation(whole))
        np.testing.assert_array_equal(np.asarray(field), whole.numpy())
        assert field.tolist() == whole.tolist()
        assert torch.equal(copy.deepcopy(field)[..., 3:9, 5:20], whole[..., 3:9, 5:20])
        for change in (
            lambda x: x.mul_(2), lambda x: x.__setitem__((..., slice(2), slice(2)), 0), lambda x: torch.add(whole, 1, out=x),
            lambda x: torch._foreach_mul_([x], 2),
        ):  # fmt: skip
            with pytest.raises(TypeError, match="cannot be changed"):
                change(field)
        assert torch.equal(field[...], whole)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_field_is_drawn_in_compiled_code(mode, drawn_by):
    @torch.compile(backend="eager")
    def compiled(x):
        return x * 2, x[..., 3:9, 5:20] + 1

    for seed in (3, 4):
        with mode():
            field = CounterNoise(seed, ["a", "b"], SHAPE, Scratch(CPU))(0)
            whole = field[...]
            doubled, window = compiled(field)
            assert torch.equal(doubled, 2 * whole)
            assert torch.equal(window, whole[..., 3:9, 5:20] + 1)


def test_torch_s_defaults_do_not_matter(drawn_by):
    field = CounterNoise(3, ["a", "b"], SHAPE, Scratch(CPU))(0)
    whole = field[...]
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            again = field[...]
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.dtype == torch.float32
    assert torch.equal(again, whole)


def test_no_image_has_an_empty_field(drawn_by):
    assert CounterNoise(3, [], SHAPE, Scratch(CPU))(0)[...].shape == (0, *SHAPE)


def test_fields_are_normal_and_independent():
    fields = [
        CounterNoise(seed, [name], (3, 256, 256), Scratch(CPU))(k)[...].flatten().double().numpy()
        for seed, name, k in [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]
    ]
    count = fields[0].size
    for values in fields:
        assert abs(values.mean()) < 4 / np.sqrt(count)
        assert abs(values.var() - 1) < 4 * np.sqrt(2 / count)
        assert abs(stats.skew(values)) < 4 * np.sqrt(6 / count)
        assert abs(stats.kurtosis(values)) < 4 * np.sqrt(24 / count)
        assert stats.kstest(values, "norm").pvalue > 1e-4
        image = values.reshape(3, 256, 256)
        for axis in range(3):  # neighbours, of channels too
            assert abs((image * np.roll(image, 1, axis)).mean()) < 4.5 / np.sqrt(count)
    assert np.abs(np.corrcoef(fields) - np.eye(len(fields))).max() < 4.5 / np.sqrt(count)


@pytest.mark.parametrize("sampler", ["ddim", "posterior"])
def test_tiles_restore_with_windows_of_the_field_as_with_the_whole(sampler, monkeypatch):
    method = tiny.model(tiny.random_weights(ATD(**tiny.ATD)))
    method.sampling = replace(method.sampling, sampler=sampler)
    lq = torch.rand(1, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    tile = TileOptions(size=16, overlap=4, blend="step")
    restored = {}
    for noise in ("sequential", "counter"):
        restored[noise] = restore(method, lq, seed=0, names=["one"], noise=noise, tile=tile)
    assert not torch.equal(restored["sequential"], restored["counter"])
    call = CounterNoise.__call__
    monkeypatch.setattr(CounterNoise, "__call__", lambda self, k: call(self, k)[...])
    whole = restore(method, lq, seed=0, names=["one"], noise="counter", tile=tile)
    assert torch.equal(restored["counter"], whole)
