"""Parity of ResShift and SinSR with the released code: diffusion, sampling, whole restorations and losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.golden_recipe import GOLDEN, arr, key_shapes
from tests.resshift import VQ_TINY, released_vq
from upsr.config.schema import OptimizerOptions, SchedulerOptions, TrainOptions
from upsr.diffusion import exponential_sqrt_etas, respace, sample
from upsr.diffusion.sampling import repeated
from upsr.engine.distributed import Runtime
from upsr.engine.players import Updater, rate_factor
from upsr.methods.base import Player
from upsr.methods.options import ConsistencyOptions
from upsr.methods.residual_shift import build_schedule, consistency
from upsr.methods.resshift.distillation import SinSRTraining
from upsr.methods.resshift.method import ResShift, Sampling
from upsr.methods.resshift.options import DiffusionOptions, ResShiftTrainOptions
from upsr.methods.resshift.training import ResShiftTraining
from upsr.tiling.padding import pad_to_multiple
from upsr.tiling.windows import Canvas, tile_starts, tiles_of

CPU = Runtime(torch.device("cpu"))
MIN_NOISE = {15: 0.04, 4: 0.2}
SHAPE = (2, 3, 16, 16)


def golden(file: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / "resshift" / f"{file}.npz") as content:
        return {key: torch.from_numpy(content[key]) for key in content.files}


def options(steps: int) -> DiffusionOptions:
    return DiffusionOptions(steps=steps, min_noise_level=MIN_NOISE[steps])


class Stub(nn.Module):
    """The denoiser of the golden vectors, on the scaled input."""

    out_channels = cond_channels = 3
    cond_factor, size_multiple, values_per_pixel = 1, 64, 1

    def __init__(self, state: float = 0.7, time: float = 0.02) -> None:
        super().__init__()
        self.state, self.time = state, time

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        return torch.tanh(self.state * x + self.time * t.view(-1, 1, 1, 1)) + 0.1 * lq


def inputs() -> dict[str, Tensor]:
    x_0 = 0.5 * arr("in:rs.diff.x0", SHAPE)
    y = x_0 + 0.3 * arr("in:rs.diff.dy", SHAPE)
    return {"x_0": x_0, "y": y, "noise": arr("in:rs.diff.noise", SHAPE), "lq": 0.5 * arr("in:rs.diff.lq", SHAPE)}


def numbered(pattern: str, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda k: arr(pattern % k, shape)


def assert_close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("steps", MIN_NOISE)
def test_schedule_matches(steps):
    expected, schedule, t = golden(f"schedule_{steps}"), build_schedule(options(steps)), torch.arange(steps)
    eta, before = schedule.eta(t), schedule.eta(t - 1)
    assert_close(eta.sqrt(), expected["sqrt_etas"], 1e-12)
    assert_close(before, expected["etas_prev"], 1e-12)
    assert_close(before / eta, expected["coef_xt"], 1e-12)
    assert_close((eta - before) / eta, expected["coef_x0"], 1e-12)
    assert_close(4 * before * (eta - before) / eta, expected["post_var"], 1e-12)
    ones = torch.ones(steps, 1, dtype=torch.float64)
    assert_close(ones / schedule.scale_input(ones, t), expected["input_std_latent"][:, None], 1e-12)


def test_respacing_of_the_released_code_matches():
    cases = key_shapes("resshift/respacing.json")
    for name, expected in cases.items():
        steps, count = (int(part[1:]) for part in name.split("_"))
        assert respace(steps, count, "released")[::-1] == expected["map"], name


@pytest.mark.parametrize(("steps", "t"), [(15, (1, 14)), (4, (0, 2))])
def test_diffusion_matches(steps, t):
    expected, schedule, given, t = golden(f"diff_{steps}"), build_schedule(options(steps)), inputs(), torch.tensor(t)
    x_t = schedule.q_sample(given["x_0"], given["y"], t, noise=given["noise"])
    assert_close(x_t, expected["x_t"])
    assert_close(schedule.prior_sample(given["y"], noise=given["noise"]), expected["prior"])
    assert_close(schedule.scale_input(x_t, t), expected["scaled"])
    posterior = schedule.posterior(given["x_0"], x_t, t)
    for name in ("mean", "variance", "log_variance"):
        assert_close(
            getattr(posterior, name), expected[f"post_{ {'mean': 'mean', 'variance': 'var'}.get(name, 'logvar') }"]
        )
    estimate = Stub()(schedule.scale_input(x_t, t), t, given["lq"])
    assert_close(estimate, expected["pred_x0"])
    assert_close(schedule.posterior(estimate, x_t, t).mean, expected["model_mean"])


@pytest.mark.parametrize("steps", MIN_NOISE)
def test_every_state_of_the_sampling_matches(steps):
    expected, schedule, given = golden(f"loop_{steps}"), build_schedule(options(steps)), inputs()
    noise = numbered(f"in:rs.loop{steps}.n%d", SHAPE)
    process = schedule.between(given["y"], sampler="posterior")
    states: list[Tensor] = []
    estimates: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        return Stub()(schedule.scale_input(x, t), t, given["lq"])

    t = repeated(list(range(steps))[::-1], 2, torch.device("cpu"))
    x = process.prior(t[:, 0], noise(0))
    x_0 = sample(x, denoise, process.step, t, noise, lambda k, x_0: estimates.append(x_0))
    assert_close(torch.stack([*states[1:], x_0]), expected["samples"])
    assert_close(torch.stack(estimates), expected["pred_x0"])


@cache
def method(steps: int = 4) -> ResShift:
    sampling = Sampling(tuple(range(steps))[::-1])
    return ResShift(Stub(), released_vq(**VQ_TINY), build_schedule(options(steps)), sampling, (0, steps)).eval()


def margins(name: str) -> str:
    return next(item["tag"] for item in key_shapes("resshift/vq_margins.json") if item["name"] == name)


def test_whole_restoration_matches():
    expected, tag, own = golden("pipeline_33x40_T4"), margins("pipeline_33x40_T4"), method()
    lq = pad_to_multiple(arr(tag, (1, 3, 33, 40), "uniform"), own.facts.multiple)
    assert_close(own.upsample(lq)[..., ::8, ::8], expected["up_sub"])
    with torch.inference_mode():
        assert_close(own.codec.encode(own.upsample(lq)), expected["z_y"], 1e-4)
    shape = (1, *own.facts.noise_shape(*lq.shape[-2:]))
    out = 2 * own.restore(lq, numbered(f"{tag}.n%d", shape))[..., :132, :160] - 1
    near = (out[..., 1::2, 1::2] - expected["out_sub"]).abs() < 1e-3
    assert near.float().mean() > 0.99


def test_tiles_restored_apart_match_the_released_chopping():
    expected, own = golden("chop_90x70"), method()
    image = (255 * arr("in:rs.chop.lr", (90, 70, 3), "uniform")).round()
    lq = image.permute(2, 0, 1)[None] / 255
    canvas, noise = Canvas(lq, 4), numbered("in:rs.chop.n%d", (1, 3, 64, 64))
    for number, place in enumerate(tiles_of(90, 70, 64, 16)):
        tile = own.restore(lq[place.place()], lambda k, first=5 * number: noise(first + k))
        if number in (0, 2):
            near = (2 * tile[..., ::4, ::4] - 1 - expected[f"tile{number}"]).abs() < 1e-3
            assert near.float().mean() > 0.99
        canvas.add(tile, place)
    pixels = (255 * canvas.result()[0].permute(1, 2, 0)).round()[::2, ::2]
    assert ((pixels - expected["out_uint8_sub"].float()).abs() <= 1).float().mean() > 0.99


def test_tiles_begin_where_the_released_ones_do():
    for name, starts in key_shapes("resshift/chop_starts.json").items():
        length, size, stride = map(int, name.split("/"))
        assert tile_starts(length, size, size - stride) == starts, name


def test_tiles_are_averaged_as_the_released_code_does():
    lq = arr("in:rs.merge.a", (1, 3, 150, 100))
    canvas = Canvas(lq, 4)
    for k, place in enumerate(tiles_of(150, 100, 64, 16)):
        canvas.add(F.interpolate(lq[place.place()], scale_factor=4) + 0.1 * k, place)
    assert_close(canvas.result()[:, :, 2::4, 2::4], golden("chop_merge_150x100")["out_sub"])


def train_batch() -> dict[str, Tensor]:
    return {"gt": arr("in:rs.tra.gt", (2, 3, 64, 64), "uniform"), "lq": arr("in:rs.tra.lq", (2, 3, 16, 16), "uniform")}


def test_training_matches(monkeypatch):
    expected, own, t = golden("train_15"), method(15), torch.tensor([3, 12])
    training = ResShiftTraining(own, ResShiftTrainOptions(total_iter=1))
    monkeypatch.setattr("upsr.methods.resshift.training.drawn_timesteps", lambda *given: t)
    monkeypatch.setattr(training, "noise", lambda like, generators: arr("in:rs.tra.noise", SHAPE))
    seen: list[Tensor] = []
    own.denoiser.register_forward_hook(lambda module, given, output: seen.extend([*given, output]))
    losses = training("g", train_batch(), [])
    y, z_0 = training.latents(train_batch())
    assert_close(y, expected["z_y"], 1e-4)
    assert_close(z_0, expected["z_start"], 1e-4)
    assert_close(seen[0], own.schedule.scale_input(expected["z_t"], t), 1e-4)
    assert_close(seen[-1], expected["z0_pred"], 1e-4)
    assert_close(losses["total"], expected["loss"])
    assert_close(losses["by_timestep"][0, t], expected["mse"])
    image = own.codec.decode(seen[-1]).clamp(-1, 1)[..., ::2, ::2]
    assert ((image - expected["x0_pred_clamped_sub"]).abs() < 1e-3).float().mean() > 0.99


def test_gradients_pass_the_quantisation_as_released():
    z = golden("train_15")["z0_pred"].clone().requires_grad_()
    method(15).codec.decode(z).clamp(-1, 1).square().mean().backward()
    assert_close(z.grad, golden("train_15")["ste_grad"], 1e-6)


def test_deterministic_teacher_and_one_step_match():
    expected, schedule, given = golden("sinsr_sampling"), build_schedule(options(15)), inputs()
    process = schedule.between(given["y"], sampler="ddim")
    states: list[Tensor] = []

    def teacher(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        return Stub()(schedule.scale_input(x, t), t, given["lq"])

    t = repeated(list(range(15))[::-1], 2, torch.device("cpu"))
    start = process.prior(t[:, 0], given["noise"])
    x_0 = sample(start, teacher, process.step, t, lambda k: given["noise"])
    assert_close(torch.stack([*states[1:], x_0]), expected["ddim15"])
    student = Stub(0.6, 0.03)(schedule.scale_input(start, t[:, 0]), t[:, 0], given["lq"])
    assert_close(student, expected["one_step"])


def test_losses_of_the_student_match():
    expected, schedule, given = golden("sinsr_train"), build_schedule(options(15)), inputs()
    t = torch.full((2,), 14)
    start = schedule.prior_sample(given["y"], noise=given["noise"])
    x_0 = golden("sinsr_sampling")["ddim15"][-1]

    def student(state: Tensor, label: int) -> Tensor:
        return Stub(0.6, 0.03)(schedule.scale_input(state, t), torch.full((2,), label), given["lq"])

    pairs = consistency(student, start, x_0, given["x_0"], 14, ConsistencyOptions(inverse=1, ground_truth=1))
    errors = {name: (a - b).square().mean(dim=(1, 2, 3)) for name, (a, b) in pairs.items()}
    assert_close(start, expected["x_T"])
    for name, key in {"teacher": "mse", "inverse": "mse_xT", "ground_truth": "mse_gt"}.items():
        assert_close(errors[name], expected[key])
    assert_close(torch.stack(list(errors.values())).sum(dim=0), expected["loss"])


def test_students_training_is_the_sum_of_these_losses(monkeypatch):
    own = method(15)
    training = SinSRTraining(own, ResShiftTrainOptions(total_iter=1), Stub(), range(14, -1, -1))
    monkeypatch.setattr(training, "noise", lambda like, generators: arr("in:rs.tra.noise", SHAPE))
    losses = training("g", train_batch(), [])
    parts = [losses[name] for name in ("l_latent", "l_inverse", "l_ground_truth")]
    assert all(part > 0 for part in parts)
    assert_close(losses["total"], sum(parts))


@pytest.mark.parametrize(
    ("name", "total", "scheduler"),
    [
        ("v3_cosine", 400_000, SchedulerOptions(type="CosineLR", min_factor=0.4)),
        ("v1_v2_constant", 300_000, SchedulerOptions()),
    ],
)
def test_learning_rates_match(name, total, scheduler):
    """The value after iteration i is used in iteration i + 1; the released warm-up is one iteration behind this one."""
    train = TrainOptions(total_iter=total, warmup_iter=5000, scheduler=scheduler)
    for after, value in key_shapes("resshift/lr_schedule.json")[name].items():
        if after.isdigit():
            done = int(after) - 1 if int(after) <= 5000 else int(after)
            assert math.isclose(5e-5 * rate_factor(train, done), value, rel_tol=1e-12), after


def test_average_of_the_weights_matches():
    """It starts at 0 and follows three values."""
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(4))
    updater = Updater(Player(network, OptimizerOptions()), TrainOptions(total_iter=1, ema_decay=0.999), CPU)
    for k, expected in enumerate(golden("ema")["ema"]):
        with torch.no_grad():
            network.weight.copy_(arr(f"in:rs.ema.{k}", (4,)))
        updater.follow()
        assert_close(updater.average["weight"], expected, 1e-7)


def test_exponential_schedule_needs_no_cap():
    """UPSR's bound of sqrt(eta) at the first step changes nothing here."""
    plain = exponential_sqrt_etas(15, kappa=2.0, power=0.3, min_noise_level=0.04, sqrt_eta_cap=None)
    capped = exponential_sqrt_etas(15, kappa=2.0, power=0.3, min_noise_level=0.04)
    assert torch.equal(plain, capped)
