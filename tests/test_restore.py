"""Restoring images of any size: padding, tiles, and noise that belongs to the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from upsr.config.schema import TileOptions
from upsr.methods import Facts, Method
from upsr.restoring import restore
from upsr.tiling.padding import pad_to_multiple
from upsr.tiling.windows import tile_starts


class Probe(Method):
    """Upscales by repetition and adds the first noise, so that a test sees both."""

    def __init__(self, multiple: int = 8, amount: float = 0.01) -> None:
        super().__init__()
        self.facts, self.amount = Facts(2, 3, multiple, state=(3, 1)), amount
        self.sizes: list[tuple[int, int]] = []

    from_options = None  # type: ignore[assignment]

    def restore(self, lq, noise, *, tiles=None, watch=None):
        assert all(side % self.facts.multiple == 0 for side in lq.shape[-2:])
        self.sizes.append(tuple(lq.shape[-2:]))
        return lq.repeat_interleave(2, -1).repeat_interleave(2, -2) + self.amount * noise(0)


def lq_batch(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (33, 64), (65, 100)])
def test_padding_reflects_as_often_as_needed(size):
    image = lq_batch(*size)
    padded = pad_to_multiple(image, 64)
    target = [-(-side // 64) * 64 for side in size]
    mode = "edge" if size == (1, 1) else "reflect"
    margins = [(0, 0), (0, 0)] + [(0, want - have) for want, have in zip(target, size, strict=True)]
    assert np.array_equal(padded.numpy(), np.pad(image.numpy(), margins, mode=mode))


@pytest.mark.parametrize(
    ("length", "expected"),
    [(512, [0]), (300, [0]), (700, [0, 188]), (1000, [0, 448, 488]), (961, [0, 448, 449])],
)
def test_tiles_start_where_the_released_code_puts_them(length, expected):
    assert tile_starts(length, 512, 64) == expected


@pytest.mark.parametrize("size", [(5, 9), (16, 16), (33, 21)])
def test_any_size_comes_back_scaled(size):
    lq = lq_batch(*size)
    out = restore(Probe(amount=0), lq, seed=0, names=["a"])
    assert torch.equal(out, lq.repeat_interleave(2, -1).repeat_interleave(2, -2))


@pytest.mark.parametrize("size", [(40, 50), (16, 70), (17, 16)])
def test_tiles_cover_the_image_and_share_its_noise(size):
    lq, probe = lq_batch(*size), Probe()
    whole = restore(probe, lq, seed=0, names=["a"])
    probe.sizes.clear()
    tiled = restore(probe, lq, seed=0, names=["a"], tile=TileOptions(size=16, overlap=8))
    assert len(probe.sizes) > 1
    assert max(max(s) for s in probe.sizes) <= 16
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_tiles_no_multiple_of_the_network_are_padded():
    lq = lq_batch(30, 45)
    tiled = restore(Probe(amount=0), lq, seed=0, names=["a"], tile=TileOptions(size=13, overlap=3))
    torch.testing.assert_close(tiled, restore(Probe(amount=0), lq, seed=0, names=["a"]))


def test_noise_belongs_to_the_seed_and_the_name_alone():
    lq, probe = lq_batch(16, 16, 3), Probe()
    batch = restore(probe, lq, seed=0, names=["a", "b", "c"])
    assert torch.equal(batch[1:2], restore(probe, lq[1:2], seed=0, names=["b"]))
    assert not torch.equal(batch[1:2], restore(probe, lq[1:2], seed=1, names=["b"]))
    assert not torch.equal(batch[1:2], restore(probe, lq[1:2], seed=0, names=["d"]))
