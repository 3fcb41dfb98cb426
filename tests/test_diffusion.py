"""Properties of the process, its schedules and samplers, and of the uncertainty weight."""

from __future__ import annotations

import pytest
import torch

from upsr.diffusion import ResidualShift, exponential_sqrt_etas, respace, sample
from upsr.diffusion.sampling import repeated
from upsr.methods.upsr.codec import PixelUnshuffleCodec
from upsr.methods.upsr.uncertainty import UncertaintyWeight

STEPS = [1, 4, 5, 15]


def make_process(steps: int = 5, **options) -> ResidualShift:
    return ResidualShift(exponential_sqrt_etas(steps, kappa=2.5), 2.5, **options)


def images(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_0, y = (torch.rand(batch, 3, 4, 4, generator=generator) * 2 - 1 for _ in range(2))
    return x_0, y, 0.4 + 0.6 * torch.rand(batch, 3, 4, 4, generator=generator)


def test_schedule_is_the_released_one():
    expected = [0.0316227766017, 0.430010956095, 0.633907749651, 0.816602130534, 0.99]
    torch.testing.assert_close(exponential_sqrt_etas(5, kappa=2.5), torch.tensor(expected, dtype=torch.float64))


def test_schedule_options_reach_the_formula():
    resshift = exponential_sqrt_etas(4, kappa=2.0, power=0.3, sqrt_eta_cap=None)
    assert resshift[0] == pytest.approx(0.1)
    assert resshift[1] == pytest.approx(0.1 * 9.9 ** ((1 / 3) ** 0.3))


@pytest.mark.parametrize("steps", STEPS)
def test_schedule_grows_to_its_end(steps):
    s = exponential_sqrt_etas(steps, kappa=2.5)
    assert len(s) == steps
    assert s[-1] == pytest.approx(0.99)
    assert (s.diff() > 0).all()


@pytest.mark.parametrize(
    ("steps", "count", "spacing", "expected"),
    [
        (5, 5, "endpoint", [4, 3, 2, 1, 0]),
        (5, 3, "endpoint", [4, 2, 0]),
        (5, 1, "endpoint", [4]),
        (15, 1, "endpoint", [14]),
        (5, 3, "released", [3, 1, 0]),
        (5, 2, "released", [2, 0]),
        (5, 4, "released", [3, 2, 1, 0]),
    ],
)
def test_respacing(steps, count, spacing, expected):
    assert respace(steps, count, spacing) == expected


@pytest.mark.parametrize("count", [0, 6])
def test_respacing_beyond_the_schedule_is_refused(count):
    with pytest.raises(ValueError, match="1 to 5"):
        respace(5, count)


def test_samples_of_a_batch_may_be_at_different_timesteps():
    process, (x_0, y, weight) = make_process(), images()
    noise, t = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2)), torch.tensor([1, 4])
    together = process.q_sample(x_0, y, t, weight=weight, noise=noise)
    for i in range(2):
        one = slice(i, i + 1)
        alone = process.q_sample(x_0[one], y[one], t[one], weight=weight[one], noise=noise[one])
        assert torch.equal(alone, together[one])


def test_noise_comes_from_the_generator_of_each_sample():
    process, (x_0, y, weight) = make_process(), images()
    t = torch.tensor([2, 2])
    both = process.q_sample(x_0, y, t, weight=weight, generator=[torch.Generator().manual_seed(s) for s in (7, 8)])
    alone = process.q_sample(x_0[1:], y[1:], t[1:], weight=weight[1:], generator=[torch.Generator().manual_seed(8)])
    assert torch.equal(both[1:], alone)
    with pytest.raises(ValueError, match="noise"):
        process.q_sample(x_0, y, t)
    with pytest.raises(ValueError, match="1 generators"):
        process.q_sample(x_0, y, t, generator=[torch.Generator()])


def test_forward_process_has_the_stated_mean_and_variance():
    process = make_process()
    x_0, y, weight = (torch.full((20000, 1, 1, 1), v) for v in (0.5, -0.3, 0.6))
    x_t = process.q_sample(x_0, y, torch.full((20000,), 2), weight=weight, generator=torch.Generator().manual_seed(0))
    eta = 0.401839035067
    assert x_t.mean() == pytest.approx(0.5 + eta * -0.8, abs=0.03)
    assert x_t.std() == pytest.approx(2.5 * eta**0.5 * 0.6, rel=0.03)


def test_reverse_steps_keep_the_forward_marginals():
    """Drawing x_t and then x_{t-1} from the posterior is drawing x_{t-1} from the forward process (Eq. 7 and 8)."""
    process, n = make_process(), 20000
    x_0, y, weight = (torch.full((n, 1, 1, 1), v) for v in (0.5, -0.3, 0.6))
    generator = torch.Generator().manual_seed(0)
    t = torch.full((n,), 3)
    x_t = process.q_sample(x_0, y, t, weight=weight, generator=generator)
    x_prev = process.posterior_step(x_0, x_t, t, weight=weight, generator=generator)
    eta = 0.401839035067
    assert x_prev.mean() == pytest.approx(0.5 + eta * -0.8, abs=0.03)
    assert x_prev.std() == pytest.approx(2.5 * eta**0.5 * 0.6, rel=0.03)
    deterministic = process.ddim_step(x_0, x_t, y, t)
    assert deterministic.mean() == pytest.approx(0.5 + eta * -0.8, abs=0.03)
    assert deterministic.std() == pytest.approx(2.5 * eta**0.5 * 0.6, rel=0.03)


@pytest.mark.parametrize("steps", STEPS)
def test_the_posterior_is_finite_at_every_step(steps):
    process, (x_0, y, weight) = make_process(steps), images(1)
    variances = []
    for t in range(steps):
        posterior = process.posterior(x_0, y, torch.tensor([t]), weight=weight)
        assert all(torch.isfinite(part).all() for part in (posterior.mean, posterior.variance, posterior.log_variance))
        variances.append((posterior.log_variance - 2 * weight.log()).exp().mean())
    if steps == 1:  # kappa^2 eta_0
        assert variances[0] == pytest.approx(2.5**2 * 0.99**2)
    else:
        assert variances[0] == pytest.approx(variances[1])


@pytest.mark.parametrize(
    ("t", "x", "x_0", "y"),
    [
        (4, 0.824850636903, 0.316746432734, -0.141597069636),
        (2, 0.678349422817, 0.409328432324, -0.087677855142),
        (0, 0.0, 1.0, 0.0),
    ],
)
def test_deterministic_step_has_the_released_coefficients(t, x, x_0, y):
    one = torch.eye(3, dtype=torch.float64)
    step = make_process().ddim_step(one[1].view(1, 3), one[0].view(1, 3), one[2].view(1, 3), torch.tensor([t]))
    torch.testing.assert_close(step, torch.tensor([[x, x_0, y]], dtype=torch.float64))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", ["ddim", "posterior"])
def test_samplers_find_x_0_when_the_denoiser_knows_it(steps, sampler):
    process, (x_0, y, weight) = make_process(steps), images()
    seen = []

    def oracle(x, t):
        seen.append(int(t[0]))
        return x_0

    noise = [torch.randn(x_0.shape, generator=torch.Generator().manual_seed(k)) for k in range(steps + 1)]
    between = process.between(y, weight, sampler=sampler)
    timesteps = repeated(respace(steps, steps), len(y), y.device)
    out = sample(between.prior(timesteps[:, 0], noise[0]), oracle, between.step, timesteps, lambda k: noise[k])
    assert torch.equal(out, x_0)
    assert seen == list(reversed(range(steps)))


def test_stochastic_sampler_uses_new_noise_at_each_step_and_the_weight():
    process, (_, y, weight) = make_process(), images()
    asked = []

    def run(weight):
        asked.clear()

        def noise(k):
            asked.append(k)
            return torch.randn(y.shape, generator=torch.Generator().manual_seed(k))

        between = process.between(y, weight, sampler="posterior")
        timesteps = repeated(respace(5, 5), len(y), y.device)
        start = between.prior(timesteps[:, 0], noise(0))
        return sample(start, lambda x, t: torch.tanh(between.scaled(x, t)), between.step, timesteps, noise)

    weighted = run(weight)
    assert asked == [0, 1, 2, 3, 4]
    assert not torch.allclose(weighted, run(None))


def test_weight_is_eq_17_on_the_unit_range():
    weighting = UncertaintyWeight(psi_max=0.05, b_u=0.4)
    y = torch.zeros(1, 1, 1, 4)
    difference_on_unit_range = torch.tensor([0.0, 0.05, 0.1, 0.5])
    y_hat = (2 * difference_on_unit_range).view(1, 1, 1, 4)
    psi = weighting.uncertainty(y_hat, y)
    torch.testing.assert_close(psi.flatten(), difference_on_unit_range / 2)
    torch.testing.assert_close(weighting.weight(psi).flatten(), torch.tensor([0.4, 0.7, 1.0, 1.0]))


def test_ablations_of_the_weight():
    y_hat, y = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    assert (UncertaintyWeight(enabled=False)(y_hat, y) == 1).all()
    assert (UncertaintyWeight(b_u=1.0)(y_hat, y) == 1).all()
    assert (UncertaintyWeight(b_u=0.0)(y, y) == 0).all()


def test_codec_loses_nothing_and_orders_channels_as_pixel_unshuffle():
    image = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    codec = PixelUnshuffleCodec(4)
    latent = codec.encode(image)
    assert latent.shape == (2, 48, 2, 2)
    assert latent[0, 1 * 16 + 2 * 4 + 3, 1, 0] == image[0, 1, 4 + 2, 3]
    assert torch.equal(codec.decode(latent), image)
