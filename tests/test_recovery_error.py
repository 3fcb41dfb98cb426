"""The Diff-SR paper's formula for its two losses, in the forms as printed and corrected."""

from __future__ import annotations

import json

import pytest
import torch

from tests import gaussian_field as field
from tests.golden_recipe import GOLDEN
from upsr.diffusion.recovery_error import fidelity_loss, printed_fidelity_loss, signature_loss, step_weights

TABLES = json.loads((GOLDEN / "siblings" / "vp_tables.json").read_text())


def alpha_bar(schedule="scaled_linear"):
    process = field.process_of(schedule)
    return process.alpha_bar(torch.arange(process.num_timesteps))


def test_the_formula_with_the_variance_has_the_golden_sums():
    found = signature_loss(alpha_bar(), torch.tensor(0.02, dtype=torch.float64), "kl")
    for t, value in TABLES["prf_cumulative_KLweights_E0_0.02"].items():
        assert float(found[int(t)]) == pytest.approx(value, rel=1e-9)


def test_the_formula_as_printed_is_saturated_after_a_twentieth_of_the_steps():
    found = signature_loss(alpha_bar(), torch.tensor(0.02), "literal")
    assert found[50] > 0.85 * found[-1]
    assert step_weights(alpha_bar(), "literal")[0] == 0


def test_the_fidelity_loss_is_the_divergence_of_the_two_forward_distributions():
    found = fidelity_loss(alpha_bar(), 1.0)
    assert float(found[200]) == pytest.approx(TABLES["K_t"]["scaled_linear@200"], rel=1e-9)
    assert float(found[400]) == pytest.approx(TABLES["K_t"]["scaled_linear@400"], rel=1e-9)
    x, x_hat = torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.4])
    rate = alpha_bar()[200]
    normal = [torch.distributions.Normal(rate.sqrt() * m.double(), (1 - rate).sqrt()) for m in (x, x_hat)]
    divergence = torch.distributions.kl_divergence(*normal).mean()
    assert fidelity_loss(alpha_bar(), float((x - x_hat).square().mean()))[200] == pytest.approx(
        float(divergence), rel=1e-6
    )


def test_the_printed_fidelity_loss_is_no_distance():
    x = torch.full((4,), 0.5)
    assert float(printed_fidelity_loss(alpha_bar(), x, x)[200]) > 1
    assert float(printed_fidelity_loss(alpha_bar(), x, 2 * x)[200]) < float(
        printed_fidelity_loss(alpha_bar(), x, 4 * x)[200]
    )
