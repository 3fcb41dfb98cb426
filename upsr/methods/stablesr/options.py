"""Options of StableSR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from upsr.choices import ColourFix, VPSampler
from upsr.config.schema import LossComponent, OptimizerOptions, PathOptions, Section, TrainOptions
from upsr.methods.options import StableDiffusionOptions, VPSamplerOptions

Start = Literal["auto", "noise", "noised_lr"]
Latent = Literal["sample", "mode"]

NEGATIVE_PROMPT = "3d, cartoon, anime, sketches, (worst quality:2), (low quality:2)"


class EncoderOptions(Section):
    """The time-aware encoder, see :class:`upsr.methods.stablesr.encoder.TimeAwareEncoder`."""

    model_channels: int = Field(256, ge=1, description="Width of the first level.")
    out_channels: int = Field(256, ge=1, description="Channels of the features.")
    channel_mult: list[int] = Field([1, 1, 2, 2], min_length=2, description="Width of each level over the first.")
    num_res_blocks: int = Field(2, ge=1, description="Residual blocks of each level.")
    num_heads: int = Field(4, ge=1, description="Heads of the self-attention.")
    norm_num_groups: int = Field(32, ge=1, description="Groups of the group norms; all widths are multiples of it.")

    @model_validator(mode="after")
    def _widths_are_whole(self) -> EncoderOptions:
        for key in ("model_channels", "out_channels"):
            if getattr(self, key) % self.norm_num_groups:
                raise ValueError(f"{key} is no multiple of norm_num_groups ({self.norm_num_groups})")
        if self.model_channels % self.num_heads:
            raise ValueError(f"model_channels is no multiple of num_heads ({self.num_heads})")
        return self


class SFTOptions(Section):
    """The SFT layers of the U-Net's residual blocks."""

    hidden_channels: int = Field(128, ge=1, description="Width of the convolution that scale and shift share.")
    norm: Literal["group", "none"] = Field(
        "group", description="group: the branch is normalised first, as in the released weights; none: Eq. 1."
    )


class CFWOptions(Section):
    """Controllable feature wrapping: encoder features of the LR image in the autoencoder's decoder."""

    w: float = Field(0.5, ge=0, le=1, description="Weight of the fused features; 1 is closest to the LR image.")
    levels: list[int] = Field([1, 2], min_length=1, description="Levels of the autoencoder, finest 0, with a block.")
    num_rrdb: int = Field(2, ge=1, description="Residual-in-residual dense blocks of each fusion block.")
    growth: int = Field(32, ge=1, description="Channels that each layer of a dense block adds.")


class SamplerOptions(VPSamplerOptions):
    """The reverse process."""

    type: VPSampler = Field("ddpm", description="ddpm: draws from the posterior; ddim: deterministic at eta 0.")
    steps: int = Field(200, ge=1, description="Network calls, evenly spaced over the schedule.")


class GuidanceOptions(Section):
    """Classifier-free guidance (Eq. 8) towards a prompt and away from another."""

    scale: float = Field(1.0, ge=0, le=20, description="1 for none, which takes half the time.")
    prompt: str = Field("", description="Text that describes the result; empty as in training.")
    negative_prompt: str = Field(NEGATIVE_PROMPT, description="Text that the result is guided away from.")


class StableSRPathOptions(PathOptions):
    """Where weights come from and where results go."""

    pretrain_network_g: str | None = Field(None, description="Weights of the time-aware encoder and the SFT layers.")
    pretrain_network_cfw: str | None = Field(None, description="Weights of the fusion blocks.")


class DiscriminatorOptions(Section):
    """The discriminator of stage cfw, see :class:`upsr.archs.patchgan.PatchDiscriminator`."""

    width: int = Field(64, ge=1, description="Channels of the first layer.")
    layers: int = Field(3, ge=1, description="Convolutions of stride 2.")
    norm: Literal["batch", "group", "none"] = Field(
        "batch", description="batch, as released: statistics of the images that a process sees at once."
    )


class AdversarialOptions(Section):
    """The adversarial loss of stage cfw."""

    weight: float = Field(0.025, ge=0, description="Factor of the loss.")
    start: int = Field(
        501, ge=0, description="Finished iterations from which on it counts, and the discriminator is trained."
    )


_ADAM = OptimizerOptions(type="Adam", lr=5e-5, betas=(0.5, 0.9))


class StableSRTrainOptions(TrainOptions):
    """The training loop, optimisers and losses of either stage."""

    optim_g: OptimizerOptions = Field(
        OptimizerOptions(lr=5e-5, weight_decay=1e-2), description="Stage sft: of encoder and SFT layers."
    )
    no_degradation_prob: float = Field(
        0.01, ge=0, le=1, description="Stage sft: probability that the ground truth takes the place of the LR image."
    )
    optim_cfw: OptimizerOptions = Field(_ADAM, description="Stage cfw: of the fusion blocks.")
    optim_d: OptimizerOptions = Field(_ADAM, description="Stage cfw: of the discriminator.")
    perceptual_opt: LossComponent | None = Field(
        None, description="Stage cfw: perceptual loss (LPIPSLoss) beside the mean absolute error; null for none."
    )
    adversarial: AdversarialOptions = AdversarialOptions()
    discriminator: DiscriminatorOptions = DiscriminatorOptions()

    @model_validator(mode="after")
    def _nothing_is_compiled(self) -> StableSRTrainOptions:
        if self.compile != "none":
            raise ValueError("compile: the trained layers work inside the networks of diffusers; set it to none")
        return self


class StableSROptions(StableDiffusionOptions):
    """An option file of StableSR."""

    encoder: EncoderOptions = EncoderOptions()
    sft: SFTOptions = SFTOptions()
    cfw: CFWOptions | None = Field(CFWOptions(), description="null: the autoencoder decodes alone.")
    sampler: SamplerOptions = SamplerOptions()
    start: Start = Field(
        "auto",
        description="noise: pure noise; noised_lr: the LR latent, noised to the first step; auto: noise where one tile holds the "
        "latent, else noised_lr, as the released scripts do with ddpm.",
    )
    guidance: GuidanceOptions = GuidanceOptions()
    latent: Latent = Field("sample", description="Of the autoencoder's posterior of the LR image.")
    colour: ColourFix = Field("adain", description="Correction towards the LR image's colours.")
    path: StableSRPathOptions = StableSRPathOptions()
    train: StableSRTrainOptions | None = Field(None, description="Needed by train.py.")
