"""The share of methods with a residual-shifting diffusion: its schedule from options, and its training."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.diffusion import ResidualShift, exponential_sqrt_etas, respace
from upsr.errors import UpsrError
from upsr.methods.options import ConsistencyOptions, ResidualShiftOptions


def build_schedule(
    d: ResidualShiftOptions, *, sqrt_eta_cap: float | None = None, noise_power: float = 1.0, data_variance: float = 1.0
) -> ResidualShift:
    """The process of the options; by default ResShift's, whose input scaling is 1 / sqrt(kappa^2 eta_t + 1).

    Raises:
        UpsrError: eta does not grow.
    """
    sqrt_etas = exponential_sqrt_etas(
        d.steps,
        kappa=d.kappa,
        power=d.power,
        min_noise_level=d.min_noise_level,
        sqrt_eta_end=d.sqrt_eta_end,
        sqrt_eta_cap=sqrt_eta_cap,
    )
    if not bool((sqrt_etas.square().diff() > 0).all()) or float(sqrt_etas[0]) ** 2 == 0:
        raise UpsrError(
            "diffusion: eta does not grow from step to step with these kappa, power, min_noise_level, sqrt_eta_end and "
            "sqrt_eta_cap; begin with the defaults"
        )
    return ResidualShift(sqrt_etas, d.kappa, noise_power=noise_power, data_variance=data_variance)


def visited_timesteps(d: ResidualShiftOptions) -> tuple[int, ...]:
    """The timesteps that the sampler of the options visits, descending."""
    if d.one_step:
        return (d.steps - 1,)
    return tuple(respace(d.steps, d.sampler.steps or d.steps, d.sampler.spacing))


def trained_timesteps(d: ResidualShiftOptions) -> tuple[int, int]:
    """Range (low, high) of timesteps that the network knows, high excluded."""
    return (d.steps - 1 if d.one_step else 0), d.steps


Pair = tuple[Tensor, Tensor]


def consistency_losses(pairs: dict[str, Pair], opt: ConsistencyOptions) -> dict[str, Tensor]:
    """Weighted mean squared errors of the pairs beside that of the teacher, by the names they are reported under."""
    weights = opt.model_dump()
    return {
        f"l_{name}": weights[name] * F.mse_loss(prediction, target)
        for name, (prediction, target) in pairs.items()
        if name in weights
    }


def consistency(
    student: Callable[[Tensor, int], Tensor], start: Tensor, x_0: Tensor, gt: Tensor, last: int, opt: ConsistencyOptions
) -> dict[str, Pair]:
    """The predictions of a one-step student and their targets (SinSR: Wang et al., CVPR 2024, Sec. 3.3 and 3.4).

    Args:
        student: estimates from a state, which it scales as at t = T - 1, under the label t.
        start: the state x_T that sampling starts from.
        x_0: the end of the teacher's deterministic trajectory from ``start``.
        gt: the ground truth in the space of the states.
        last: T - 1.
        opt: losses with the weight 0 are left out.

    Returns:
        ``teacher``, from x_T to x_0; ``inverse``, from x_0 under the label 0 to x_T; ``ground_truth``, to the ground truth from
        the state that the student itself maps the ground truth to.
    """
    pairs = {"teacher": (student(start, last), x_0)}
    if opt.inverse:
        pairs["inverse"] = (student(x_0, 0), start)
    if opt.ground_truth:
        with torch.no_grad():
            origin = student(gt, 0)
        pairs["ground_truth"] = (student(origin, last), gt)
    return pairs
