"""The recovery error of the Diff-SR paper (Eq. 6 to 19), a formula for how much noise an upsampled image may be given.

x is the image sought, x_hat the upsampled LR image, a = alpha-bar_t. The error is the signature loss, which grows with t, and
omega times the fidelity loss, which falls with t. It is a diagnostic: noise levels are chosen by measuring
(:mod:`upsr.evaluation.recoverable_field`), because of the printed formula's errors:

- The thresholds of both losses (Eq. 8 and 9) are not given.
- Eq. 12 divides by the squared norm of the variance where the KL divergence of two Gaussians has the variance itself. So
  weighted, nine tenths of the sum over 1000 steps are reached in the first 50.
- At the first step the variance is 0; it is left out here.
- C_t and L_0 of Eq. 13 do not depend on the image's degradation and are left out here, so losses of different t are
  comparable and their level is not.
- The KL divergence of Eq. 16 has wrong signs and factors: that of the two forward distributions is
  a / (2 (1 - a)) |x - x_hat|^2, so that A_t is 0. As printed it depends on the images' brightness and is not a distance.
- Sums or means over pixels are not stated, so that omega = 0.004 has no fixed meaning; here all are means.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

OMEGA = 0.004
"""Weight of the fidelity loss in Eq. 7."""

Form = Literal["literal", "kl"]
"""Weights of Eq. 12 as printed, or with the variance in place of its square."""


def step_weights(alpha_bar: Tensor, form: Form) -> Tensor:
    """Weights of the prediction errors E_i in Eq. 12, (T,) float64; 0 for the first step.

    Args:
        alpha_bar: (T,) cumulative products of 1 - beta.
    """
    a = alpha_bar.double()
    before = torch.cat([a.new_ones(1), a[:-1]])
    alpha = a / before
    variance = (1 - before) / (1 - a) * (1 - alpha)
    weights = (1 - alpha) ** 2 / (2 * alpha * (1 - a) * (variance**2 if form == "literal" else variance))
    weights[0] = 0
    return weights


def signature_loss(alpha_bar: Tensor, errors: Tensor, form: Form) -> Tensor:
    """The sum of Eq. 13 over the steps up to each t, (T,) float64.

    Args:
        errors: E_i, mean squared error of the predicted noise at each step, (T,); a scalar for the constant E_0 that the paper
            argues for. The constant with the KL weights has the shape that the paper describes: a fast start, a slow
            middle and a faster end.
    """
    return (step_weights(alpha_bar, form) * errors.double()).cumsum(0)


def fidelity_loss(alpha_bar: Tensor, distance: float) -> Tensor:
    """K_t times the mean squared distance of x and x_hat, with K_t = a / (2 (1 - a)); the corrected Eq. 16 with A_t = 0."""
    a = alpha_bar.double()
    return a / (2 * (1 - a)) * distance


def printed_fidelity_loss(alpha_bar: Tensor, x: Tensor, x_hat: Tensor) -> Tensor:
    """Eq. 16 as printed: A_t = a (x^2 + x_hat^2) / (1 - a), and 2 a x (x - x_hat) / (1 - a); means over pixels."""
    a, x, x_hat = alpha_bar.double(), x.double(), x_hat.double()
    return a / (1 - a) * float((x**2 + x_hat**2 + 2 * x * (x - x_hat)).mean())
