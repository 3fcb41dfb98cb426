"""Options of UPSR."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from upsr.choices import Sampler, Spacing
from upsr.config.schema import NetworkComponent, Precision, Section
from upsr.methods.options import NetworkOptions, NetworkPathOptions, NetworkTrainOptions


class UncertaintyOptions(Section):
    """Uncertainty-guided noise weighting (paper Eq. 17)."""

    enabled: bool = Field(True, description="Off: every pixel gets the full noise (Table 1 without UNW).")
    psi_max: float = Field(0.05, ge=1e-6, description="Uncertainty with full noise, on the [0, 1] image range.")
    b_u: float = Field(0.4, ge=0, le=1, description="Noise weight of a pixel without uncertainty (Table 5).")


class SamplerOptions(Section):
    """How an image is sampled."""

    type: Sampler = Field(
        "ddim", description="ddim: deterministic, as the released weights were tested; posterior: Eq. 8 of the paper."
    )
    steps: int | None = Field(None, ge=1, description="Network calls; by default all steps of the schedule.")
    spacing: Spacing = Field(
        "endpoint", description="Which steps fewer calls keep; 'released' drops the last one as the released code does."
    )


class DiffusionOptions(Section):
    """The residual-shifting process and its schedule."""

    steps: int = Field(
        5, ge=1, le=10**4, description="T of the schedule the network is trained with (5, 4, 15, 1, ...)."
    )
    kappa: float = Field(2.5, gt=0, le=1000, description="Noise strength.")
    power: float = Field(0.2, gt=0, description="Exponent of the exponential schedule.")
    min_noise_level: float = Field(
        0.2,
        gt=0,
        description="Bound of kappa * sqrt(eta) at the first step; where sqrt_eta_cap is lower it decides, and this has no "
        "effect (from 0.079 on with the defaults).",
    )
    sqrt_eta_end: float = Field(0.99, gt=0, lt=1, description="sqrt(eta) at the last step.")
    sqrt_eta_cap: float | None = Field(
        math.sqrt(0.001), gt=0, description="Bound of sqrt(eta) at the first step; null for ResShift's schedule."
    )
    noise_power: float = Field(0.3, gt=0, description="Constant for E[w^2] in the input scaling.")
    data_variance: float = Field(0.25, gt=0, description="Assumed image variance in the input scaling.")
    one_step: bool = Field(False, description="Train at the last step alone and sample with one network call.")
    sr_condition: bool = Field(True, description="Condition on g(y) beside y (Table 1).")
    estimate: Literal["image", "residual"] = Field(
        "image",
        description="What network_g gives: the image, as released, or its difference from g(y) (from y without "
        "sr_condition), with which short trainings of small networks begin.",
    )
    sampler: SamplerOptions = SamplerOptions()

    @model_validator(mode="after")
    def _sampler_fits_schedule(self) -> DiffusionOptions:
        if self.sampler.steps is not None and self.sampler.steps > self.steps:
            raise ValueError(f"sampler.steps is {self.sampler.steps}, but the schedule has {self.steps} steps")
        if self.one_step and self.sampler.steps not in (None, 1):
            raise ValueError("one_step samples with one network call; remove sampler.steps or set it to 1")
        return self

    @model_validator(mode="after")
    def _noise_grows(self) -> DiffusionOptions:
        first = min(self.min_noise_level / self.kappa, self.min_noise_level, self.sqrt_eta_cap or math.inf)
        if self.steps > 1 and first >= self.sqrt_eta_end:
            raise ValueError(
                f"sqrt(eta) would fall from {first:g} at the first step to {self.sqrt_eta_end:g} at the last; lower "
                "min_noise_level or sqrt_eta_cap"
            )
        return self


class UPSRPathOptions(NetworkPathOptions):
    """Where weights come from and where results go."""

    pretrain_network_aux: str | None = Field(None, description="Weights of network_aux, the frozen g; or 'tiny'.")
    param_key_aux: str | None = Field(None, description="As param_key_g, for network_aux.")


class UPSRTrainOptions(NetworkTrainOptions):
    """The training loop, the optimiser of the denoiser and its losses."""

    aux_amp: Precision = Field("fp32", description="Type that the frozen g computes in.")


class UPSROptions(NetworkOptions):
    """An option file of UPSR, stage two."""

    network_g: NetworkComponent = Field(description="The network that is trained: the denoiser.")
    network_aux: NetworkComponent | None = Field(None, description="The frozen auxiliary network g.")
    diffusion: DiffusionOptions = DiffusionOptions()
    uncertainty: UncertaintyOptions = UncertaintyOptions()
    path: UPSRPathOptions = UPSRPathOptions()
    train: UPSRTrainOptions | None = Field(None, description="Needed by train.py.")
