"""Options of ResShift and SinSR."""

from __future__ import annotations

from pydantic import Field

from upsr.config.schema import CommonOptions, LossComponent, NetworkComponent, OptimizerOptions, TrainOptions
from upsr.methods.options import ConsistencyOptions, NetworkPathOptions, ResidualShiftOptions, SamplerOptions


class DiffusionOptions(ResidualShiftOptions):
    """The residual-shifting process and its schedule; the defaults are those of the 15 steps of versions 1 and 2."""

    steps: int = Field(15, ge=1, le=10**4, description="T of the schedule: 15 (versions 1 and 2), 4 (version 3).")
    kappa: float = Field(2.0, gt=0, le=1000, description="Noise strength.")
    power: float = Field(0.3, gt=0, description="Exponent of the exponential schedule.")
    min_noise_level: float = Field(
        0.04, gt=0, description="Bound of kappa * sqrt(eta) at the first step: 0.04 (15 steps), 0.2 (4 steps)."
    )
    sampler: SamplerOptions = SamplerOptions(type="posterior")


class ResShiftPathOptions(NetworkPathOptions):
    """Where weights come from and where results go."""

    pretrain_autoencoder: str | None = Field(None, description="Weights of the autoencoder.")


class ResShiftTrainOptions(TrainOptions):
    """The training loop, the optimiser of the denoiser and its losses."""

    optim_g: OptimizerOptions = OptimizerOptions(lr=5e-5)
    latent_opt: LossComponent = Field(
        LossComponent(type="MSELoss"), description="Loss of the latent before quantisation, a registered loss."
    )
    perceptual_opt: LossComponent | None = Field(
        None, description="Perceptual loss of the decoded image (version 3: LPIPSLoss); null for none."
    )
    consistency: ConsistencyOptions = Field(
        ConsistencyOptions(inverse=1.0, ground_truth=1.0), description="Of the phase distillation, which is SinSR."
    )


class ResShiftOptions(CommonOptions):
    """An option file of ResShift or SinSR."""

    network_g: NetworkComponent = Field(description="The network that is trained: the denoiser, ResShiftUNet.")
    autoencoder: NetworkComponent = Field(
        NetworkComponent(type="VQAutoencoder"), description="The frozen autoencoder whose latent the diffusion runs in."
    )
    diffusion: DiffusionOptions = DiffusionOptions()
    path: ResShiftPathOptions = ResShiftPathOptions()
    train: ResShiftTrainOptions | None = Field(None, description="Needed by train.py.")
