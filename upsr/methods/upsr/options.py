"""Options of UPSR."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from upsr.config.schema import NetworkComponent, Precision, Section
from upsr.methods.options import (
    ConsistencyOptions,
    NetworkOptions,
    NetworkPathOptions,
    NetworkTrainOptions,
    ResidualShiftOptions,
)


class UncertaintyOptions(Section):
    """Uncertainty-guided noise weighting (paper Eq. 17)."""

    enabled: bool = Field(True, description="Off: every pixel gets the full noise (Table 1 without UNW).")
    psi_max: float = Field(0.05, ge=1e-6, description="Uncertainty with full noise, on the [0, 1] image range.")
    b_u: float = Field(0.4, ge=0, le=1, description="Noise weight of a pixel without uncertainty (Table 5).")


class DiffusionOptions(ResidualShiftOptions):
    """The residual-shifting process and its schedule."""

    min_noise_level: float = Field(
        0.2,
        gt=0,
        description="Bound of kappa * sqrt(eta) at the first step; where sqrt_eta_cap is lower it decides, and this has no "
        "effect (from 0.079 on with the defaults).",
    )
    sqrt_eta_cap: float | None = Field(
        math.sqrt(0.001), gt=0, description="Bound of sqrt(eta) at the first step; null for ResShift's schedule."
    )
    noise_power: float = Field(0.3, gt=0, description="Constant for E[w^2] in the input scaling.")
    data_variance: float = Field(0.25, gt=0, description="Assumed image variance in the input scaling.")
    sr_condition: bool = Field(True, description="Condition on g(y) beside y (Table 1).")
    estimate: Literal["image", "residual"] = Field(
        "image",
        description="What network_g gives: the image, as released, or its difference from g(y) (from y without "
        "sr_condition), with which short trainings of small networks begin.",
    )
    g_share: float = Field(
        0.0, ge=0, lt=1, description="Share of g(y) in the result; the rest is what the diffusion gives."
    )

    @property
    def first_sqrt_eta(self) -> float:
        """See :attr:`ResidualShiftOptions.first_sqrt_eta`."""
        return min(super().first_sqrt_eta, self.sqrt_eta_cap or math.inf)


class UPSRPathOptions(NetworkPathOptions):
    """Where weights come from and where results go."""

    pretrain_network_aux: str | None = Field(None, description="Weights of network_aux, the frozen g; or 'tiny'.")
    param_key_aux: str | None = Field(None, description="As param_key_g, for network_aux.")


class UPSRTrainOptions(NetworkTrainOptions):
    """The training loop, the optimiser of the denoiser and its losses."""

    aux_amp: Precision = Field("fp32", description="Type that the frozen g computes in.")
    consistency: ConsistencyOptions = ConsistencyOptions()


class UPSROptions(NetworkOptions):
    """An option file of UPSR, stage two."""

    network_g: NetworkComponent = Field(description="The network that is trained: the denoiser.")
    network_aux: NetworkComponent | None = Field(None, description="The frozen auxiliary network g.")
    diffusion: DiffusionOptions = DiffusionOptions()
    uncertainty: UncertaintyOptions = UncertaintyOptions()
    path: UPSRPathOptions = UPSRPathOptions()
    train: UPSRTrainOptions | None = Field(None, description="Needed by train.py.")
