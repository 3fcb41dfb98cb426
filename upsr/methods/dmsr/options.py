"""Options of DM-SR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from upsr.archs.lpips_network import Backbone as LPIPSNet
from upsr.choices import ColourFix
from upsr.config.schema import LossComponent, OptimizerOptions, PathOptions, Section, TrainOptions
from upsr.methods.options import StableDiffusionOptions

PROMPT = "High-quality, high-contrast, photo-realistic, clean, sharp, highly-detailed, perfect, 8k, ultra HD"
"""Text condition of the denoiser (Sec. 3.3)."""


class EncoderOptions(Section):
    """The timestep in the encoder, see :class:`upsr.methods.dmsr.encoder.TimestepEncoder`."""

    embedding: Literal["scalar", "sinusoidal"] = Field(
        "scalar",
        description="Input of the linear layers: t / 500, which gives the 34.16 M parameters of the paper, or 320 sines.",
    )


class EstimatorOptions(Section):
    """The timestep estimator, see :class:`upsr.methods.dmsr.estimator.TimestepEstimator`."""

    width: int = Field(64, ge=1, description="Channels of the first block; 64 is VGG-19.")
    bins: int = Field(500, ge=2, le=1000, description="Timesteps 0 .. bins - 1 whose expectation is the estimate.")
    pretrained: str | None = Field(
        "imagenet",
        description="Features that phase timestep starts from: a file of torchvision's vgg19; imagenet: torchvision fetches "
        "it; null: random ones.",
    )


class DMSRPathOptions(PathOptions):
    """Where weights come from and where results go."""

    pretrain_network_g: str | None = Field(None, description="Weights of the encoder.")
    pretrain_network_t: str | None = Field(None, description="Weights of the timestep estimator.")


class TargetOptions(Section):
    """The timestep that the estimator learns, from the distance of LR image and ground truth (Sec. 3.1 and 4.5)."""

    measure: Literal["lpips", "l1", "ssim"] = Field(
        "lpips",
        description="Distance of the upsampled LR image: LPIPS, mean absolute difference of values in [0, 1], or 1 - SSIM.",
    )
    gain: float = Field(
        1.0, gt=0, description="The timestep is the distance, times this, cut to [0, 1], times the number of bins."
    )
    net: LPIPSNet = Field("alex", description="Backbone of LPIPS.")
    backbone_path: str | None = Field(None, description="File of that backbone; by default torchvision's, fetched.")


class AdversarialOptions(Section):
    """The adversarial loss of phase dm (Eq. 4 and 5)."""

    weight: float = Field(0.1, ge=0, description="Factor of the encoder's loss; 0: no discriminator is trained.")
    loss: Literal["non_saturating", "hinge"] = Field("non_saturating", description="Form of both losses.")
    start: int = Field(
        0, ge=0, description="Iterations after which the encoder has it; the discriminator is trained from the first."
    )
    clamp: float | None = Field(
        10.0, gt=0, description="Bound of the restored latents that the discriminator sees; null for none."
    )


class DistributionMatchingOptions(Section):
    """The distribution matching loss of phase dm (Eq. 6 and 7)."""

    weight: float = Field(0.5, ge=0, description="Factor of the loss; 0 for none.")
    low: int = Field(1, ge=0, description="Lowest timestep that is drawn.")
    high: int = Field(500, ge=0, le=999, description="Highest timestep that is drawn.")

    @model_validator(mode="after")
    def _low_is_lower(self) -> DistributionMatchingOptions:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


class NoiseOptions(Section):
    """The loss of the noise part of phase dm (Eq. 8)."""

    weight: float = Field(1.0, ge=0, description="Factor of the loss; 0 for none.")
    form: Literal["mse_stopgrad", "full"] = Field(
        "mse_stopgrad",
        description="Mean squared difference of predicted and optimal noise; full: gradients also pass the optimal noise.",
    )


class DiscriminatorOptions(Section):
    """The discriminator of phase dm, see :class:`upsr.methods.dmsr.discriminator.ControlDiscriminator`."""

    block_out_channels: list[int] = Field([64, 128, 256, 256], min_length=2, description="Width of each level.")
    layers_per_block: int = Field(2, ge=1, description="Residual blocks of each level.")
    norm_num_groups: int = Field(32, ge=1, description="Groups of the group norms; all widths are multiples of it.")
    attention_head_dim: int = Field(8, ge=1, description="Heads of the attention.")

    @model_validator(mode="after")
    def _widths_are_whole(self) -> DiscriminatorOptions:
        for divisor in ("norm_num_groups", "attention_head_dim"):
            if any(width % getattr(self, divisor) for width in self.block_out_channels):
                raise ValueError(f"block_out_channels are no multiples of {divisor} ({getattr(self, divisor)})")
        return self


class DMSRTrainOptions(TrainOptions):
    """The training loop, optimisers and losses of either phase."""

    optim_t: OptimizerOptions = Field(OptimizerOptions(lr=1e-4), description="Phase timestep: of the estimator.")
    target: TargetOptions = TargetOptions()
    optim_g: OptimizerOptions = Field(OptimizerOptions(lr=1e-4), description="Phase dm: of the encoder.")
    optim_d: OptimizerOptions = Field(
        OptimizerOptions(lr=5e-5, weight_decay=1e-3), description="Phase dm: of the discriminator."
    )
    l1: float = Field(1.0, ge=0, description="Phase dm: factor of the mean absolute error of latents; 0 for none.")
    perceptual_opt: LossComponent | None = Field(
        None, description="Phase dm: perceptual loss (LatentLPIPSLoss, or of images LPIPSLoss); null for none."
    )
    perceptual_space: Literal["latent", "image"] = Field(
        "latent", description="Phase dm: what the perceptual loss sees; image: the decoded latent."
    )
    adversarial: AdversarialOptions = AdversarialOptions()
    distribution_matching: DistributionMatchingOptions = DistributionMatchingOptions()
    noise: NoiseOptions = NoiseOptions()
    discriminator: DiscriminatorOptions = DiscriminatorOptions()

    @model_validator(mode="after")
    def _something_is_learnt(self) -> DMSRTrainOptions:
        weights = (self.l1, self.adversarial.weight, self.distribution_matching.weight, self.noise.weight)
        if not any(weights) and self.perceptual_opt is None:
            raise ValueError("all losses of phase dm are off; give one of l1, perceptual_opt, adversarial, ...")
        if self.compile != "none":
            raise ValueError("compile: the trained networks are of diffusers and torchvision; set it to none")
        return self


class DMSROptions(StableDiffusionOptions):
    """An option file of DM-SR."""

    encoder: EncoderOptions = EncoderOptions()
    estimator: EstimatorOptions = EstimatorOptions()
    timestep: int | None = Field(None, ge=1, le=999, description="Of every image, in place of the estimator (Table 3).")
    steps: int = Field(1, ge=1, le=50, description="Network calls (Table 4).")
    prompt: str = Field(PROMPT, description="Text condition of the denoiser.")
    colour: ColourFix = Field("none", description="Correction towards the LR image's colours.")
    path: DMSRPathOptions = DMSRPathOptions()
    train: DMSRTrainOptions | None = Field(None, description="Needed by train.py.")
