"""The variance-preserving process: golden vectors, diffusers' schedulers, and the field whose denoiser is known."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests import gaussian_field as field
from tests.golden_recipe import GOLDEN, arr
from upsr.diffusion import VariancePreserving, sample, timesteps_from
from upsr.diffusion.sampling import repeated

FOLDER = GOLDEN / "siblings"
STEPS = {
    "vp_step_scaled_linear": ("vp1", "scaled_linear", (3, 3, 8, 8), [400, 200, 999], [350, 0, 500]),
    "vp_step_sd": ("vp2", "sd_scaled_linear", (2, 4, 8, 8), [999, 40], [666, -1]),
}
TABLES = json.loads((FOLDER / "vp_tables.json").read_text())


def close(actual, expected, *, dtype, t):
    """To 1e-10 in float64; in float32 to 1e-3 at t = 999, where 1 / sqrt(alpha-bar) is 37, and to 1e-5 otherwise."""
    expected = torch.as_tensor(expected)
    for value, right, step in zip(actual, expected, t, strict=True):
        tolerance = 1e-10 if dtype == torch.float64 else 1e-3 if step == 999 else 1e-5
        assert_close(value.double(), right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("file", STEPS)
def test_steps_match_the_golden_ones_each_sample_at_its_own_timestep(file, dtype):
    prefix, schedule, shape, t, t_prev = STEPS[file]
    golden = np.load(FOLDER / f"{file}.npz")
    x_0, eps, output, z = (arr(f"in:sb.{prefix}.{n}", shape).to(dtype) for n in ("x0", "noise", "eps", "z"))
    x_0 = 0.5 * x_0
    process, steps = field.process_of(schedule), torch.tensor(t)
    velocity = VariancePreserving(process.alpha_bar(torch.arange(1000)), "v_prediction")
    x_t = process.q_sample(x_0, steps, eps)
    estimate = process.x_0(output, x_t, steps)
    mean, variance = process.posterior(estimate, x_t, steps, torch.tensor(t_prev))
    assert_close(variance, torch.from_numpy(golden["ddpm_var"]), rtol=0, atol=1e-10)
    found = {
        "x_t": x_t,
        "x0_from_eps": estimate,
        "eps_from_x0": process.epsilon(x_0, x_t, steps),
        "v": process.velocity(x_0, eps, steps),
        "x0_from_v": velocity.x_0(output, x_t, steps),
        "eps_from_v": process.epsilon(velocity.x_0(output, x_t, steps), x_t, steps),
        "ddpm_mean": mean,
        "ddpm_sample": process.step("ddpm")(x_t, estimate, steps, torch.tensor(t_prev), lambda: z),
    }
    for eta in (0.0, 0.5, 1.0):
        found[f"ddim_eta{eta}"] = process.step("ddim", eta)(x_t, estimate, steps, torch.tensor(t_prev), lambda: z)
    for key in set(golden) - {"ddpm_var"}:
        close(found[key], golden[key], dtype=dtype, t=t)


@pytest.mark.parametrize("name", TABLES["alphas_cumprod"])
def test_schedules_match_the_golden_tables(name):
    process = field.process_of(name)
    for t, value in TABLES["alphas_cumprod"][name].items():
        assert float(process.alpha_bar(torch.tensor(int(t)))) == pytest.approx(value, rel=1e-9)
    assert float(process.alpha_bar(torch.tensor(-1))) == 1
    same = TABLES["equal_noise_index"][name]
    reference = field.process_of("scaled_linear")
    for t in (200, 400):
        noise = float(reference.alpha_bar(torch.tensor(t)))
        assert process.index_of(noise) == same[f"same_noise_as_scaled_linear_t{t}"]


def test_timesteps_match_the_golden_lists():
    for name, expected in json.loads((FOLDER / "timestep_lists.json").read_text()).items():
        t, steps = (int(part) for part in name.removeprefix("t").split("_steps"))
        assert timesteps_from(t, steps) == expected
    assert timesteps_from(7, None) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert timesteps_from(0, 50) == [0]
    assert timesteps_from(9, 1) == [9]


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_ddpm_equals_the_scheduler_of_diffusers(spacing, prediction, schedule):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        beta_schedule=schedule, timestep_spacing=spacing, prediction_type=prediction, clip_sample=False
    )
    theirs.set_timesteps(30)
    own = VariancePreserving(theirs.alphas_cumprod, prediction)
    clean, eps, output = (arr(f"in:vp.diffusers.{n}", (2, 3, 8, 8)) for n in ("x", "noise", "out"))
    for t, t_prev in itertools.pairwise([*theirs.timesteps.tolist(), -1]):
        steps = torch.full((2,), t)
        if float(own.alpha_bar(steps)[0]) < 1e-3 and prediction == "epsilon":
            continue  # 1 / sqrt(alpha-bar) magnifies the rounding of both
        x_t = own.q_sample(0.5 * clean, steps, eps)
        assert_close(x_t, theirs.add_noise(0.5 * clean, eps, steps), rtol=0, atol=1e-5)
        assert_close(own.velocity(clean, eps, steps), theirs.get_velocity(clean, eps, steps), rtol=0, atol=1e-5)
        expected = theirs.step(output, t, x_t, generator=torch.Generator().manual_seed(t))
        z = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
        x_0 = own.x_0(output, x_t, steps)
        found = own.step("ddpm")(x_t, x_0, steps, torch.full((2,), t_prev), lambda z=z: z)
        assert_close(x_0, expected.pred_original_sample, rtol=1e-5, atol=1e-5)
        assert_close(found, expected.prev_sample, rtol=1e-5, atol=1e-5)


def test_ddim_equals_the_scheduler_of_diffusers_where_that_is_right():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    theirs.set_timesteps(20)
    own = VariancePreserving(theirs.alphas_cumprod)
    x, output = arr("in:vp.ddim.x", (2, 3, 8, 8)), arr("in:vp.ddim.out", (2, 3, 8, 8))
    for t, t_prev in itertools.pairwise(theirs.timesteps.tolist()):
        steps = torch.full((2,), t)
        step = own.step("ddim")(x, own.x_0(output, x, steps), steps, torch.full((2,), t_prev), lambda: x)
        assert_close(step, theirs.step(output, t, x).prev_sample, rtol=1e-5, atol=1e-5)


def test_samples_of_a_batch_may_start_at_timesteps_of_their_own():
    process, x, eps = field.process_of("scaled_linear"), field.images(count=2), field.noise(count=2)
    denoise, step = field.ExactNetwork(process).estimate, process.step("ddim")
    timesteps = torch.cat([repeated(timesteps_from(t, 10), 1, x.device) for t in (400, 150)])
    together = sample(process.q_sample(x, timesteps[:, 0], eps), denoise, step, timesteps, lambda k: eps)
    for i, t in enumerate((400, 150)):
        alone = field.restored(process, x[i : i + 1], eps[i : i + 1], t, steps=10)
        assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_field_and_its_restorations_match_the_golden_ones():
    golden = {name: torch.from_numpy(value) for name, value in np.load(FOLDER / "gaussian_field_x4.npz").items()}
    process, x_0, eps = field.process_of("scaled_linear"), field.images()[:2], field.noise()[:2]
    y = field.upsampled(x_0, 4)
    assert_close(x_0, golden["x0"], rtol=0, atol=1e-10)
    assert_close(y, golden["upsampled"], rtol=0, atol=1e-10)
    t = torch.full((2,), 400)
    once = field.ExactNetwork(process).estimate(process.q_sample(y, t, eps), t)
    assert_close(once, golden["denoised_once_t400"], rtol=0, atol=1e-10)
    for t in (200, 400):
        assert_close(field.restored(process, y, eps, t), golden[f"out_t{t}"], rtol=0, atol=1e-9)
        single = field.restored(process, y.float(), eps.float(), t)
        assert_close(single.double(), golden[f"out_t{t}"], rtol=0, atol=1e-4)


CURVES = json.loads((FOLDER / "gaussian_field_curves.json").read_text())


@pytest.mark.parametrize("case", CURVES)
def test_curves_of_the_field_match_the_golden_ones(case):
    name, _, scale = case.partition("/x")
    process, x_0, eps = field.process_of(name), field.images(), field.noise()
    y = field.upsampled(x_0, int(scale))
    for point in CURVES[case]:
        x = field.restored(process, y, eps, point["t"])
        assert field.psnr(x, x_0) == pytest.approx(point["psnr"], abs=1e-6)
        assert field.high_ratio(x, x_0, int(scale)) == pytest.approx(point["hf_ratio"], abs=1e-6)


def test_more_noise_costs_fidelity_and_gives_detail_and_a_larger_scale_needs_more():
    process, x_0, eps = field.process_of("scaled_linear"), field.images(), field.noise()
    levels = range(0, 401, 50)
    needed = []
    for scale in (2, 2.6, 4, 8):
        y = field.upsampled(x_0, scale)
        results = [field.restored(process, y, eps, t) for t in levels]
        fidelity = [field.psnr(x, x_0) for x in results]
        detail = [field.high_ratio(x, x_0, scale) for x in results]
        assert fidelity == sorted(fidelity, reverse=True)
        assert detail == sorted(detail)
        needed.append(float(np.interp(0.55, detail, levels)))
    assert needed == sorted(needed)
    assert needed[0] < needed[-1] - 100
