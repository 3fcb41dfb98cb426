"""Options that several methods share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from upsr.choices import Sampler, Spacing, VPSampler
from upsr.config.schema import (
    CommonOptions,
    LossComponent,
    NetworkComponent,
    OptimizerOptions,
    PathOptions,
    Section,
    TrainOptions,
)


class NetworkPathOptions(PathOptions):
    """Where weights come from and where results go."""

    pretrain_network_g: str | None = Field(None, description="Weights of network_g (.pth or .safetensors), or 'tiny'.")
    param_key_g: str | None = Field(
        None, description="Key inside the file; by default params_ema, then params, then the file itself."
    )
    strict_load_g: bool = Field(True, description="Refuse weights that do not fit key by key.")
    pretrain_network_d: str | None = Field(None, description="Weights that network_d begins with.")


class NetworkTrainOptions(TrainOptions):
    """The training loop, the optimiser of network_g and its losses."""

    optim_g: OptimizerOptions = OptimizerOptions()
    pixel_opt: LossComponent = Field(description="Pixel loss, a registered loss.")
    perceptual_opt: LossComponent | None = Field(None, description="Perceptual loss (LPIPSLoss); null for none.")
    grid_opt: LossComponent | None = Field(
        None, description="Loss that keeps out a pixel shuffle's pattern (GridLoss)."
    )
    perceptual_shift: int = Field(
        1,
        ge=1,
        description="The perceptual loss sees each sample from a row and a column drawn below this; at 1 always the whole. "
        "A strided backbone does not see a grid of its own period, which 4 shows it.",
    )
    gan_opt: LossComponent | None = Field(
        None, description="Adversarial loss against network_d, a registered loss (GANLoss); null for none."
    )
    gan_start: int = Field(
        0, ge=0, description="Iterations before gan_opt is trained on; network_d learns from the first."
    )
    optim_d: OptimizerOptions = OptimizerOptions()


class NetworkOptions(CommonOptions):
    """Options of a method whose trained network is ``network_g``."""

    network_g: NetworkComponent = Field(description="The network that is trained.")
    network_d: NetworkComponent | None = Field(
        None,
        description="The discriminator of training with train.gan_opt, of images in [0, 1]: UNetDiscriminatorSN, "
        "PatchDiscriminator; null for none.",
    )
    path: NetworkPathOptions = NetworkPathOptions()
    train: NetworkTrainOptions | None = Field(None, description="Needed by train.py.")


class SamplerOptions(Section):
    """How an image is sampled."""

    type: Sampler = Field(
        "ddim", description="ddim: deterministic, as the released weights were tested; posterior: Eq. 8 of the paper."
    )
    steps: int | None = Field(None, ge=1, description="Network calls; by default all steps of the schedule.")
    spacing: Spacing = Field(
        "endpoint", description="Which steps fewer calls keep; 'released' drops the last one as the released code does."
    )


class VPSamplerOptions(Section):
    """The reverse step of a variance-preserving process; a method adds its number of steps."""

    type: VPSampler = "ddim"
    eta: float = Field(0.0, ge=0, le=1, description="Share of new noise in each step of ddim.")

    @model_validator(mode="after")
    def _eta_is_of_ddim(self) -> VPSamplerOptions:
        if self.eta and self.type == "ddpm":
            raise ValueError("eta belongs to ddim; remove it, or set type: ddim")
        return self


class AggregationOptions(Section):
    """Tiles of the latent that meet at every step (Eq. 7)."""

    size: int | None = Field(
        None, ge=8, description="Side in cells; by default the side that the U-Net was trained on."
    )
    overlap: int | None = Field(None, ge=0, description="Overlap in cells; by default half the side.")
    centre: Literal["released", "symmetric"] = Field(
        "released", description="Middle of the Gaussian weights; released: half a cell lower than the tile's own."
    )

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> AggregationOptions:
        if self.size is not None and self.overlap is not None and self.overlap >= self.size:
            raise ValueError(f"overlap ({self.overlap}) must be smaller than size ({self.size})")
        return self


class AutoencoderTileOptions(Section):
    """Larger images are encoded and decoded in tiles."""

    size: int = Field(
        1280,
        ge=64,
        description="About the side of a tile in pixels of the result, a multiple of 8; tiles are rectangles of up to 1.5 times "
        "its area and twice its side.",
        multiple_of=8,
    )
    overlap: int = Field(280, ge=0, description="Overlap in pixels, a multiple of 8.", multiple_of=8)

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> AutoencoderTileOptions:
        if self.overlap >= self.size:
            raise ValueError(f"overlap ({self.overlap}) must be smaller than size ({self.size})")
        return self


class StableDiffusionOptions(CommonOptions):
    """Options of a method whose diffusion is Stable Diffusion."""

    scale: float = Field(4, ge=1, le=16, description="Upscaling factor; any number.")  # type: ignore[assignment]
    backbone: str | None = Field(
        None,
        description="Folder of diffusers' StableDiffusionPipeline (Stable Diffusion 2.1, or SD-Turbo), or its user/name on the "
        "Hugging Face Hub; without it and with path.allow_random_weights networks with random weights.",
    )
    random_backbone: Literal["full", "tiny"] = Field(
        "full", description="Size of networks with random weights: that of Stable Diffusion 2.1, or a few layers."
    )
    aggregation: AggregationOptions | None = Field(
        AggregationOptions(), description="null: latents of any size at once."
    )
    autoencoder_tile: AutoencoderTileOptions | None = Field(
        AutoencoderTileOptions(), description="null: images of any size at once."
    )


class ResidualShiftOptions(Section):
    """The residual-shifting process and its schedule."""

    steps: int = Field(
        5, ge=1, le=10**4, description="T of the schedule the network is trained with (5, 4, 15, 1, ...)."
    )
    kappa: float = Field(2.5, gt=0, le=1000, description="Noise strength.")
    power: float = Field(0.2, gt=0, description="Exponent of the exponential schedule.")
    min_noise_level: float = Field(0.2, gt=0, description="Bound of kappa * sqrt(eta) at the first step.")
    sqrt_eta_end: float = Field(0.99, gt=0, lt=1, description="sqrt(eta) at the last step.")
    one_step: bool = Field(False, description="Train at the last step alone and sample with one network call.")
    sampler: SamplerOptions = SamplerOptions()

    @property
    def first_sqrt_eta(self) -> float:
        """sqrt(eta) at the first step."""
        return min(self.min_noise_level / self.kappa, self.min_noise_level)

    @model_validator(mode="after")
    def _sampler_fits_schedule(self) -> Self:
        if self.sampler.steps is not None and self.sampler.steps > self.steps:
            raise ValueError(f"sampler.steps is {self.sampler.steps}, but the schedule has {self.steps} steps")
        if self.one_step and self.sampler.steps not in (None, 1):
            raise ValueError("one_step samples with one network call; remove sampler.steps or set it to 1")
        return self

    @model_validator(mode="after")
    def _noise_grows(self) -> Self:
        if self.steps > 1 and self.first_sqrt_eta >= self.sqrt_eta_end:
            raise ValueError(
                f"sqrt(eta) would fall from {self.first_sqrt_eta:g} at the first step to {self.sqrt_eta_end:g} at the last; "
                "lower min_noise_level or sqrt_eta_cap"
            )
        return self


class ConsistencyOptions(Section):
    """Weights of a student's further losses beside that to its teacher (SinSR: 1 and 1)."""

    inverse: float = Field(0.0, ge=0, description="From the teacher's result back to the noisy state.")
    ground_truth: float = Field(
        0.0, ge=0, description="From the state that leads to the ground truth to the ground truth."
    )
