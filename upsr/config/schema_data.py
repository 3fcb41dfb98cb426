"""Options of the RealESRGAN degradation. The defaults are those of the released UPSR training (x4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the range {list(pair)} ends below its start")
    return pair


def _within(low: float, high: float) -> AfterValidator:
    """Refuses ranges of which a part makes no sense."""

    def checked(pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] < low or pair[1] > high:
            raise ValueError(f"the range {list(pair)} does not lie within {low:g} to {high:g}")
        return pair

    return AfterValidator(checked)


def _around_one(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] <= 0 or pair[0] > 1 or pair[1] < 1:
        raise ValueError(
            f"the range {list(pair)} must be above 0 and hold 1: draws are from its start to 1, or from 1 to its end"
        )
    return pair


def _odd(sizes: list[int]) -> list[int]:
    if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(f"kernel sizes are odd and positive, not {sizes}")
    return sizes


def _weights(name: str, values: Sequence[float]) -> None:
    if not values or min(values) < 0 or sum(values) <= 0:
        raise ValueError(f"{name} are weights: none is negative, and not all are 0")


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Sigma = Annotated[Range, _within(0.01, 100)]
Beta = Annotated[Range, AfterValidator(_around_one)]
NoiseLevel = Annotated[Range, _within(0, 255)]
NoiseFactor = Annotated[Range, _within(0, 100)]
Quality = Annotated[Range, _within(1, 100)]
Factor = Annotated[Range, AfterValidator(_around_one), _within(0, 16)]
Probability = Annotated[float, Field(ge=0, le=1)]
KernelSizes = Annotated[list[int], AfterValidator(_odd)]
KernelName = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]


class DegradationSection(BaseModel):
    """A section that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BlurOptions(DegradationSection):
    """A random blur kernel."""

    kernel_sizes: KernelSizes = Field(list(range(3, 20, 2)), description="Sizes drawn from, odd.")
    support: int = Field(21, ge=1, description="Kernels are zero-padded to this size.")
    kernel_list: list[KernelName] = [
        "iso",
        "aniso",
        "generalized_iso",
        "generalized_aniso",
        "plateau_iso",
        "plateau_aniso",
    ]
    kernel_prob: list[float] = Field([0.45, 0.25, 0.12, 0.03, 0.12, 0.03], description="Weights of kernel_list.")
    sinc_prob: Probability = Field(0.1, description="Share of sinc kernels (ringing) in place of kernel_list.")
    blur_sigma: Sigma = Field((0.2, 3.0), description="Standard deviations in pixels, at least 0.01.")
    betag_range: Beta = Field((0.5, 4.0), description="Shape of generalised Gaussians.")
    betap_range: Beta = Field((1.0, 2.0), description="Shape of plateau kernels.")

    @model_validator(mode="after")
    def _kernels_fit(self) -> BlurOptions:
        _weights("kernel_prob", self.kernel_prob)
        if len(self.kernel_list) != len(self.kernel_prob):
            raise ValueError(f"kernel_prob has {len(self.kernel_prob)} entries, kernel_list {len(self.kernel_list)}")
        if max(self.kernel_sizes) > self.support or self.support % 2 == 0:
            raise ValueError(f"support ({self.support}) is odd and at least the largest of kernel_sizes")
        return self


class SecondBlurOptions(BlurOptions):
    """The blur kernel of the second round."""

    kernel_sizes: KernelSizes = list(range(3, 14, 2))
    support: int = Field(15, ge=1)
    blur_sigma: Sigma = (0.2, 1.5)


class StageOptions(DegradationSection):
    """One round of blur, resizing, noise and JPEG."""

    blur_prob: Probability = Field(1.0, description="Share of batches that are blurred.")
    blur: BlurOptions = BlurOptions()
    resize_prob: tuple[float, float, float] = Field((0.2, 0.7, 0.1), description="Weights of up, down, keep.")
    resize_range: Factor = Field((0.15, 1.5), description="Smallest factor of down and largest factor of up.")
    gaussian_noise_prob: Probability = Field(0.5, description="Share of Gaussian noise; the rest is Poisson noise.")
    noise_range: NoiseLevel = Field((1.0, 30.0), description="Standard deviation of Gaussian noise, of 255.")
    poisson_scale_range: NoiseFactor = Field((0.05, 3.0), description="Factor of Poisson noise.")
    gray_noise_prob: Probability = Field(0.4, description="Share of noise that is the same in all channels.")
    jpeg_range: Quality = Field((30.0, 95.0), description="JPEG quality.")

    @model_validator(mode="after")
    def _resizes_somehow(self) -> StageOptions:
        _weights("resize_prob", self.resize_prob)
        return self


class SecondStageOptions(StageOptions):
    """The second round, which is milder."""

    blur_prob: Probability = 0.8
    blur: SecondBlurOptions = SecondBlurOptions()
    resize_prob: tuple[float, float, float] = (0.3, 0.4, 0.3)
    resize_range: Factor = (0.3, 1.2)
    noise_range: NoiseLevel = (1.0, 25.0)
    poisson_scale_range: NoiseFactor = (0.05, 2.5)


class FinalOptions(DegradationSection):
    """The sinc filter at the end."""

    sinc_prob: Probability = Field(0.8, description="Share of samples with a final sinc filter.")
    kernel_sizes: KernelSizes = Field(list(range(3, 14, 2)), description="Sizes drawn from, odd.")
    support: int = Field(15, ge=1, description="Kernels are zero-padded to this size.")

    @model_validator(mode="after")
    def _kernels_fit(self) -> FinalOptions:
        if max(self.kernel_sizes) > self.support or self.support % 2 == 0:
            raise ValueError(f"support ({self.support}) is odd and at least the largest of kernel_sizes")
        return self


class DegradationOptions(DegradationSection):
    """The second-order degradation of Real-ESRGAN."""

    first: StageOptions = StageOptions()
    second: SecondStageOptions = SecondStageOptions()
    final: FinalOptions = FinalOptions()
    second_order_prob: Probability = Field(
        1.0,
        description="Share of batches with a second blur, resizing and noise (released UPSR: all; its option of that name "
        "was not read). The last resizing, sinc filter and JPEG always follow.",
    )
    decision_group: int = Field(
        16, ge=1, description="Samples of the global batch that share the resize factor, the kind of noise, and so on."
    )
    usm_gt: bool = Field(
        False,
        description="Crops, of 26 pixels or more, are sharpened by an unsharp mask (basicsr's, radius 50): what is degraded and "
        "the ground truth. Stored pairs stay as they are.",
    )
    round_lq: bool = Field(True, description="LR images are rounded to 8 bit, as those in files are.")
