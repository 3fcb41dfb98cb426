"""Options of Diff-SR and of the training of its unconditional diffusion model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from upsr.choices import NoiseSchedule, Prediction, VPSampler
from upsr.config.schema import CommonOptions, NetworkComponent, OptimizerOptions, Section, TrainOptions
from upsr.methods.options import NetworkPathOptions, VPSamplerOptions


class DiffusionOptions(Section):
    """The variance-preserving process that the network was trained with."""

    schedule: NoiseSchedule = Field("scaled_linear", description="Form of beta_t; the paper: scaled_linear.")
    steps: int = Field(1000, ge=1, le=10**5, description="T of the schedule.")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="First beta of linear, scaled_linear and sigmoid.")
    beta_end: float = Field(0.02, gt=0, lt=1, description="Last beta of linear, scaled_linear and sigmoid.")
    prediction: Prediction = Field("epsilon", description="Quantity that network_g gives.")
    clip: bool = Field(
        True, description="Estimates of images are clipped to their range, as DDPM's samplers do; latents are not."
    )


class NoiseLevelOptions(Section):
    """The noise that the upsampled image gets, as t / T."""

    policy: Literal["by_scale", "fixed", "target_alpha_bar", "prf"] = Field(
        "by_scale",
        description="by_scale: 0.2 for each doubling, within 0.05 to 0.65; fixed: `level`; target_alpha_bar: as much noise as "
        "by_scale means on the paper's schedule; prf: t_star of a file that upsr diffsr calibrate made.",
    )
    level: float | None = Field(None, ge=0, lt=1, description="Of the policy fixed.")
    calibration: str | None = Field(None, description="JSON file of the policy prf.")

    @model_validator(mode="after")
    def _policy_has_its_value(self) -> NoiseLevelOptions:
        for policy, key in (("fixed", "level"), ("prf", "calibration")):
            if (self.policy == policy) != (getattr(self, key) is not None):
                raise ValueError(f"policy: {policy} and {key} go together; the policy is {self.policy}")
        return self


class SamplerOptions(VPSamplerOptions):
    """The reverse process."""

    type: VPSampler = Field("ddim", description="ddim: deterministic at eta 0; ddpm: draws from the posterior.")
    steps: int | None = Field(50, ge=1, description="Network calls from t to 0, at most t + 1; null for all.")


class DiffSRTrainOptions(TrainOptions):
    """The training loop and the optimiser of the denoiser."""

    optim_g: OptimizerOptions = OptimizerOptions(type="Adam", lr=1e-5)


class DiffSROptions(CommonOptions):
    """An option file of Diff-SR."""

    scale: float = Field(4, ge=1, le=16, description="Upscaling factor; any number.")  # type: ignore[assignment]
    network_g: NetworkComponent = Field(description="The unconditional denoiser.")
    codec: NetworkComponent | None = Field(
        None, description="Frozen autoencoder whose latent the denoiser works in (KLAutoencoder); null for pixels."
    )
    diffusion: DiffusionOptions = DiffusionOptions()
    noise_level: NoiseLevelOptions = NoiseLevelOptions()
    sampler: SamplerOptions = SamplerOptions()
    path: NetworkPathOptions = NetworkPathOptions()
    train: DiffSRTrainOptions | None = Field(None, description="Needed by train.py.")
