"""The degradation: deterministic, independent of how a batch is split, and of the stated distribution."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError

from tests import tiny
from upsr.cli import main
from upsr.config.schema_data import DegradationOptions
from upsr.data import PairPool, RealESRGANDegradation
from upsr.data.degradation import _blur
from upsr.data.image_io import to_tensor, to_uint8
from upsr.data.kernels import COLUMNS, draw_kernels, render_kernels
from upsr.data.noise import gaussian_noise, poisson_noise
from upsr.engine.feed import DegradedPairs
from upsr.errors import UpsrError
from upsr.methods.base import Facts
from upsr.rng import numpy_generator

OPTIONS = DegradationOptions(decision_group=4)


def batch(count: int, size: int = 64, channels: int = 3) -> tuple[torch.Tensor, ...]:
    gt = torch.stack([to_tensor(tiny.picture(size, size, i)) for i in range(count)])[:, :channels]
    return gt, torch.stack([draw_kernels(OPTIONS, 0, "test", i) for i in range(count)])


def degrade(data, slots, keys=(0, "step", 1), scale=4, options=OPTIONS):
    slots = list(slots)
    return RealESRGANDegradation(options, scale)(*(x[slots] for x in data), slots=slots, keys=keys)


def test_same_step_same_images_other_step_others():
    data = batch(4)
    first = degrade(data, range(4))
    assert torch.equal(first, degrade(data, range(4)))
    assert not torch.equal(first, degrade(data, range(4), keys=(0, "step", 2)))


@pytest.mark.parametrize(
    "splits", [[range(0, 6), range(6, 12)], [range(3), range(3, 4), range(4, 12)], [[i] for i in range(12)]]
)
@pytest.mark.parametrize("step", range(4))
def test_any_split_of_a_batch_gives_the_same_images(splits, step):
    """Steps differ in noise and order of operations; groups of four are cut by the splits."""
    data, keys = batch(12), (0, "step", step)
    whole = degrade(data, range(12), keys)
    parts = torch.cat([degrade(data, part, keys) for part in splits])
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_scale_and_channels(scale, channels):
    lq = degrade(batch(2, channels=channels), range(2), scale=scale)
    assert lq.shape == (2, channels, 64 // scale, 64 // scale)
    assert torch.equal(lq, (lq * 255).round() / 255)
    assert 0 <= lq.min() <= lq.max() <= 1


@pytest.mark.parametrize(("size", "scale"), [(4, 4), (8, 8), (16, 4), (32, 2)])
def test_crops_smaller_than_the_kernels_are_degraded(size, scale):
    """A kernel of 21 pixels on an image of one: what it would reach of it is cut off, and it still sums to 1."""
    options = DegradationOptions.model_validate(
        {"first": {"resize_range": [0.01, 1.5], "resize_prob": [0, 1, 0]}, "second": {"resize_range": [0.01, 1.2]}}
    )
    data = batch(2, size)
    for step in range(12):
        lq = degrade(data, range(2), (0, "step", step), scale, options)
        assert lq.shape == (2, 3, size // scale, size // scale)
        assert torch.isfinite(lq).all()


def test_a_cut_kernel_leaves_a_flat_image_as_it_is():
    flat = torch.full((2, 3, 4, 4), 0.25)
    torch.testing.assert_close(_blur(flat, torch.rand(2, 21, 21)), flat)


def test_many_steps_are_finite_and_still_show_the_image():
    data = batch(4)
    small = torch.nn.functional.interpolate(data[0], scale_factor=0.25, mode="area")
    for step in range(30):
        lq = degrade(data, range(4), keys=(0, step))
        assert lq.isfinite().all()
        assert (lq - small).abs().mean() < 0.25


def test_perfect_jpeg_quality_is_harmless():
    clean = {"gaussian_noise_prob": 1, "noise_range": (0, 0), "resize_prob": (0, 0, 1), "blur_prob": 0}
    clean["jpeg_range"] = (100, 100)
    options = DegradationOptions(first=clean, second=clean, final={"sinc_prob": 0})
    gt, _ = batch(2, channels=1)
    kernels = torch.stack([draw_kernels(options, 0, i) for i in range(2)])
    lq = degrade((gt, kernels), range(2), options=options, scale=1)
    assert (lq - gt).abs().max() < 3 / 255


def test_noise_equals_basicsr_for_the_same_draws():
    from basicsr.data.degradations import generate_gaussian_noise_pt, generate_poisson_noise_pt

    image = batch(1)[0]

    def generator():
        return torch.Generator().manual_seed(11)

    for gray in (0.0, 1.0):
        flag = torch.full((1, 1, 1, 1), gray)
        torch.manual_seed(11)
        expected = generate_gaussian_noise_pt(image, torch.tensor([12.0]), flag.flatten())
        other = torch.Generator()
        own, shared = (other, generator()) if gray else (generator(), other)
        actual = gaussian_noise(image.shape, torch.full((1, 1, 1, 1), 12.0), flag, [own], shared)
        torch.testing.assert_close(actual, expected)
    torch.manual_seed(11)
    expected = generate_poisson_noise_pt(image, torch.tensor([1.5]), torch.ones(1))
    actual = poisson_noise(image, torch.full((1, 1, 1, 1), 1.5), torch.ones(1, 1, 1, 1), [generator()])
    torch.testing.assert_close(actual, expected)


def test_decisions_have_the_stated_probabilities():
    degradation = RealESRGANDegradation(DegradationOptions(), 4)
    stage, counts, factors = DegradationOptions().first, {"up": 0, "down": 0, "keep": 0}, []
    rng = numpy_generator("statistics")
    draws = type("Draws", (), {"decisions": rng})()
    for _ in range(3000):
        factor, mode = degradation._draw_resize(stage, draws)
        assert mode in ("area", "bilinear", "bicubic")
        counts["keep" if factor == 1 else "up" if factor > 1 else "down"] += 1
        factors.append(factor)
    assert {k: v / 3000 for k, v in counts.items()} == pytest.approx({"up": 0.2, "down": 0.7, "keep": 0.1}, abs=0.03)
    assert min(factors) == pytest.approx(0.15, abs=0.01)
    assert max(factors) == pytest.approx(1.5, abs=0.01)


def test_kernels_are_a_function_of_the_sample():
    first = draw_kernels(DegradationOptions(), 0, 7)
    assert first.shape == (3, len(COLUMNS))
    assert torch.equal(first, draw_kernels(DegradationOptions(), 0, 7))
    assert not torch.equal(first, draw_kernels(DegradationOptions(), 0, 8))


def test_kernels_leave_the_global_generators_alone():
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    draw_kernels(DegradationOptions(), 0)
    assert np.array_equal(np.random.rand(3), expected)


def test_nothing_waits_for_the_device():
    """On tensors without values any read of one by the host fails; the plain pipeline, to show that this test can, does."""
    from plain_training import PlainDegradation
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    degradation, pool = RealESRGANDegradation(SHARP, 4), PairPool(2, round_lq=False)
    plain = PlainDegradation(OPTIONS, 4, torch.device("cpu"))
    gt, kernels = batch(4)
    with fake:
        gt, kernels = fake.from_tensor(gt), fake.from_tensor(kernels)
        for step in range(8):
            lq = degradation(degradation.ground_truth(gt), kernels, slots=range(4), keys=(0, step))
            out, _, _ = pool.exchange(lq, gt, list("abcd"), slots=range(4), keys=(0, step))
        assert out.shape == (4, 3, 16, 16)
        with pytest.raises(DataDependentOutputException):
            plain(gt, *(torch.ones(4, 21, 21) for _ in range(3)))


def test_a_larger_support_only_adds_zeros():
    drawn = torch.stack([draw_kernels(DegradationOptions(), 0, i)[1] for i in range(50)])
    small, large = render_kernels(drawn, 15), render_kernels(drawn, 21)
    torch.testing.assert_close(large[:, 3:18, 3:18], small)
    assert large.sum(dim=(1, 2)).sub(1).abs().max() < 1e-5


SHARP = DegradationOptions(decision_group=4, usm_gt=True, round_lq=False)


def test_a_sharpened_ground_truth_is_basicsrs_for_each_image_alone():
    from basicsr.utils.img_process_util import usm_sharp

    gt = batch(3)[0]
    made = RealESRGANDegradation(SHARP, 4).ground_truth(gt)
    expected = torch.stack([to_tensor_of(usm_sharp(crop.permute(1, 2, 0).numpy())) for crop in gt])
    torch.testing.assert_close(made, expected, atol=2e-3, rtol=0)  # at its threshold the mask may fall either way
    assert (made - gt).abs().max() > 0.02
    assert torch.equal(made[1:2], RealESRGANDegradation(SHARP, 4).ground_truth(gt[1:2]))
    assert RealESRGANDegradation(OPTIONS, 4).ground_truth(gt) is gt


def to_tensor_of(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def test_crops_too_small_to_be_sharpened_are_refused():
    with pytest.raises(UpsrError, match=r"degradation\.usm_gt: crops are of 26 pixels or more"):
        RealESRGANDegradation(SHARP, 4).ground_truth(torch.rand(1, 3, 24, 64))
    assert RealESRGANDegradation(SHARP, 2).ground_truth(torch.rand(1, 3, 26, 26)).shape == (1, 3, 26, 26)


def test_sharpened_pairs_leave_the_pool_with_the_exact_ground_truth_they_were_degraded_from():
    """The pool stores crops, in bytes; what leaves it is sharpened, whichever step it is from."""
    opt = SimpleNamespace(degradation=SHARP, pair_pool=SimpleNamespace(pairs_per_slot=2), manual_seed=0)
    training = SimpleNamespace(
        method=SimpleNamespace(facts=Facts(4.0, 3))
    )  # a scale that may be a fraction, and is none
    feed, plain = DegradedPairs(opt, training), RealESRGANDegradation(SHARP, 4)
    made, left = {}, []
    for step in range(6):
        gt, kernels = to_tensor(tiny.picture(64, 64, step))[None], draw_kernels(SHARP, 0, step)[None]
        raw = {"gt": (gt * 255).round().byte(), "kernels": kernels, "key": [str(step)]}
        sharp = plain.ground_truth(gt)
        made[str(step)] = plain(sharp, kernels, slots=[0], keys=(0, "train", step)), sharp
        out, (name,) = feed.batch(raw, step, [0])
        left.append(name)
        torch.testing.assert_close((out["lq"], out["gt"]), made[name], rtol=0, atol=0)
    assert left != list(made)
    stored = {"gt": raw["gt"], "lq": raw["gt"][..., ::4, ::4], "key": ["a"]}
    opt.pair_pool.pairs_per_slot = 0
    assert torch.equal(DegradedPairs(opt, training).batch(stored, 0, [0])[0]["gt"], gt)
    training.method.facts = Facts(2.5, 3)
    with pytest.raises(UpsrError, match=r"scale is 2\.5, but training on degraded pairs needs a whole number"):
        DegradedPairs(opt, training)


def test_images_that_are_not_rounded_are_those_that_round_to_the_rounded():
    data = batch(4)
    exact = degrade(data, range(4), options=DegradationOptions(decision_group=4, round_lq=False))
    assert not torch.equal(exact, (exact * 255).round() / 255)
    assert 0 <= exact.min() <= exact.max() <= 1
    assert torch.equal((exact * 255).round() / 255, degrade(data, range(4)))


@pytest.mark.parametrize(
    "bad",
    [
        {"first": {"resize_range": [2, 1]}},
        {"first": {"blur": {"kernel_sizes": [4]}}},
        {"first": {"blur": {"kernel_prob": [1.0]}}},
        {"final": {"support": 5}},
        {"second_order_prob": 1.5},
        {"unknown": 1},
    ],
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(ValidationError):
        DegradationOptions.model_validate(bad)


def pair(value: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 1, 2, 2), value / 255), torch.full((1, 1, 4, 4), value / 255)


def test_pool_returns_each_pair_once_and_keeps_lq_with_its_gt():
    pool, seen = PairPool(4), []
    for step in range(200):
        lq, gt, _ = pool.exchange(*pair(step % 256), [str(step)], slots=[0], keys=(step,))
        assert lq[0, 0, 0, 0] == gt[0, 0, 0, 0]
        seen.append(round(float(lq[0, 0, 0, 0]) * 255))
    assert seen[:4] == [0, 1, 2, 3]
    later = seen[4:]
    assert len(set(later)) == len(later)
    ages = np.array([step - value for step, value in enumerate(seen)][4:])
    assert ages.mean() == pytest.approx(4, abs=1)  # a pair leaves with probability 1/4 at each step


def test_pool_of_a_slot_does_not_depend_on_the_other_slots():
    together, alone = PairPool(3), PairPool(3)
    for step in range(20):
        lq, gt = (torch.cat([x, y]) for x, y in zip(pair(step), pair(step + 100), strict=True))
        both, _, _ = together.exchange(lq, gt, ["a", "b"], slots=[4, 9], keys=(step,))
        one, _, _ = alone.exchange(*pair(step + 100), ["b"], slots=[9], keys=(step,))
        assert torch.equal(both[1:], one)


def test_pool_survives_a_checkpoint(tmp_path):
    pool = PairPool(3)
    for step in range(5):
        pool.exchange(*pair(step), [str(step)], slots=[0], keys=(step,))
    torch.save(pool.state_dict(), tmp_path / "pool.pth")
    restored = PairPool(3)
    assert load_pool(restored, torch.load(tmp_path / "pool.pth", weights_only=True)) == 0
    for step in range(5, 12):
        a, b = (p.exchange(*pair(step), [str(step)], slots=[0], keys=(step,))[0] for p in (pool, restored))
        assert torch.equal(a, b)


def load_pool(pool: PairPool, state, *, lq: int = 2, gt: int = 4) -> int:
    return pool.load_state_dict(
        state, slots=[0, 1], device=torch.device("cpu"), lq_shape=(1, lq, lq), gt_shape=(1, gt, gt)
    )


def test_pool_keeps_images_that_are_not_rounded_and_a_checkpoint_goes_to_either_pool(tmp_path):
    pool, rounded = PairPool(3, round_lq=False), PairPool(3)
    given, returned = {}, []
    for step in range(8):
        lq = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(step))
        given[str(step)] = lq.clone()
        out, _, (name,) = pool.exchange(lq, pair(step)[1], [str(step)], slots=[0], keys=(step,))
        rounded.exchange((lq * 255).round() / 255, pair(step)[1], [str(step)], slots=[0], keys=(step,))
        lq.zero_()  # a pool that kept the caller's tensor would lose it here
        returned.append((name, out))
    assert [name for name, _ in returned] != list(given)
    assert all(torch.equal(out, given[name]) for name, out in returned[3:])
    state = pool.state_dict()
    assert (state[0]["lq"].dtype, state[0]["gt"].dtype) == (torch.float32, torch.uint8)
    torch.save(state, tmp_path / "pool.pth")
    exact, bytes_again, floats = PairPool(3, round_lq=False), PairPool(3), PairPool(3, round_lq=False)
    for restored in (exact, bytes_again):
        assert load_pool(restored, torch.load(tmp_path / "pool.pth", weights_only=True)) == 0
    assert load_pool(floats, rounded.state_dict()) == 0
    assert torch.equal(exact.state_dict()[0]["lq"], state[0]["lq"])
    assert torch.equal(bytes_again.state_dict()[0]["lq"], rounded.state_dict()[0]["lq"])
    assert torch.equal(floats.state_dict()[0]["lq"], rounded.state_dict()[0]["lq"].float() / 255)


def test_all_bytes_survive_a_checkpoint():
    pool, restored = PairPool(1), PairPool(1)
    lq = torch.arange(256.0).view(1, 1, 16, 16) / 255
    pool.exchange(lq, lq, ["a"], slots=[0], keys=(0,))
    assert load_pool(restored, pool.state_dict(), lq=16, gt=16) == 0
    assert torch.equal(restored.state_dict()[0]["lq"].flatten(), torch.arange(256, dtype=torch.uint8))


def test_pool_takes_over_only_what_fits():
    pool = PairPool(3)
    for step in range(3):
        pool.exchange(*pair(step), [str(step)], slots=[0], keys=(step,))
    state = pool.state_dict()
    smaller, larger, other, none = PairPool(2), PairPool(5), PairPool(3), PairPool(0)
    assert [load_pool(p, state) for p in (smaller, larger, none)] == [1, 0, 3]
    assert [[p.state_dict()[0]["names"]] for p in (smaller, larger)] == [[["0", "1"]], [["0", "1", "2"]]]
    assert load_pool(other, state, lq=4, gt=8) == 3
    assert other.state_dict() == none.state_dict() == {}


def test_pool_of_nothing_passes_pairs_through():
    lq, gt = pair(7)
    assert PairPool(0).exchange(lq, gt, ["a"], slots=[0], keys=(0,)) == (lq, gt, ["a"])


def test_a_preview_shows_the_ground_truths_that_a_training_would_have(tmp_path, capsys):
    tiny.save_pictures(tmp_path / "photos", 2, size=64)
    options = {"method": "diffsr", "name": "x", "scale": 4, "datasets": {}, "network_g": {"type": "DDPMUNet"}}
    sheets = {}
    for name, changes in (("plain", {}), ("sharp", {"degradation": {"usm_gt": True}}), ("odd", {"scale": 2.5})):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump({**options, **changes}))
        command = ["data", "preview", "--input", str(tmp_path / "photos"), "--output", str(tmp_path / f"{name}.png")]
        code = main([*command, "-opt", str(tmp_path / f"{name}.yml"), "--size", "64", "--versions", "1"])
        assert code == (2 if name == "odd" else 0)
        if code == 0:
            with Image.open(tmp_path / f"{name}.png") as picture:
                sheets[name] = np.asarray(picture)[:64, :64]
    assert "scale is 2.5, but a preview of the degradation needs a whole number" in capsys.readouterr().err
    crop = to_tensor(sheets["plain"])[None]
    assert np.array_equal(sheets["sharp"], to_uint8(RealESRGANDegradation(SHARP, 4).ground_truth(crop)[0]))
