"""The option file as typed structures: every key, its default, and what it means.

Unknown keys and wrong types are refused when the file is read (:mod:`upsr.config.load`). Keys of a registered
component (a network, a dataset, a loss, a metric) are the annotated arguments of its constructor and are checked
against them (:mod:`upsr.config.components`).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from upsr.config.schema_data import DegradationOptions


class Section(BaseModel):
    """A section of the option file that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def null_means(value: Any) -> BeforeValidator:
    """An option that can be set to nothing takes null for it too, as options without a value of that meaning do."""
    return BeforeValidator(lambda given: value if given is None else given)


Precision = Annotated[Literal["fp32", "bf16", "fp16"], null_means("fp32")]


def _folder_name(name: str) -> str:
    if not name.strip() or name in (".", "..") or any(c in "/\\:" or ord(c) < 32 for c in name):
        raise ValueError(f"{name!r} becomes a folder's name; write it without / \\ : and line breaks")
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]


def _ending(text: str) -> str:
    if any(c in "/\\" or ord(c) < 32 for c in text):
        raise ValueError(f"{text!r} becomes part of a file's name; write it without / \\ and line breaks")
    return text


def _without_nulls(mapping: Any) -> Any:
    """An entry of null leaves out what a base file has under that name."""
    return {k: v for k, v in mapping.items() if v is not None} if isinstance(mapping, dict) else mapping


class Component(BaseModel):
    """A registered class by name, and the keyword arguments of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="Name in the registry.")

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but ``type``."""
        return dict(self.model_extra or {})


class DatasetOptions(Component):
    """A registered dataset and how it is read."""

    name: FolderName | None = Field(
        None, description="Name in logs and result folders; by default the key of the section."
    )
    batch_size_per_gpu: int = Field(1, ge=1, description="Images of one process in one forward pass.")
    num_worker_per_gpu: int = Field(0, ge=0, le=1024, description="Loader processes of each training process.")


class PairPoolOptions(Section):
    """The training-pair pool, which mixes degradations within a batch."""

    pairs_per_slot: Annotated[int, null_means(0)] = Field(
        10, ge=0, description="Stored pairs for each sample of the batch (released: 160 for a batch of 16); 0 for none."
    )


class UncertaintyOptions(Section):
    """Uncertainty-guided noise weighting (paper Eq. 17)."""

    enabled: bool = Field(True, description="Off: every pixel gets the full noise (Table 1 without UNW).")
    psi_max: float = Field(0.05, ge=1e-6, description="Uncertainty with full noise, on the [0, 1] image range.")
    b_u: float = Field(0.4, ge=0, le=1, description="Noise weight of a pixel without uncertainty (Table 5).")


class SamplerOptions(Section):
    """How an image is sampled."""

    type: Literal["ddim", "posterior"] = Field(
        "ddim", description="ddim: deterministic, as the released weights were tested; posterior: Eq. 8 of the paper."
    )
    steps: int | None = Field(None, ge=1, description="Network calls; by default all steps of the schedule.")
    spacing: Literal["endpoint", "released"] = Field(
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


class PathOptions(Section):
    """Where weights come from and where results go."""

    pretrain_network_g: str | None = Field(None, description="Weights of network_g (.pth or .safetensors), or 'tiny'.")
    param_key_g: str | None = Field(
        None, description="Key inside the file; by default params_ema, then params, then the file itself."
    )
    strict_load_g: bool = Field(True, description="Refuse weights that do not fit key by key.")
    pretrain_network_aux: str | None = Field(None, description="Weights of network_aux, the frozen g; or 'tiny'.")
    param_key_aux: str | None = Field(None, description="As param_key_g, for network_aux.")
    allow_random_weights: bool = Field(
        False, description="Go on where weights that a run needs are not given: dry runs, not results."
    )
    resume_state: str | None = Field(None, description="Training state to continue from (.state).")
    experiments_root: str = Field("experiments", description="Folder of training runs.")
    results_root: str = Field("results", description="Folder of test runs.")


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerOptions(Section):
    """The optimiser, from torch.optim."""

    type: Literal["AdamW", "Adam"] = "AdamW"
    lr: float = Field(1e-4, gt=0, description="Learning rate after warm-up.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of the moments of the gradient.")
    eps: float = Field(1e-8, ge=1e-15)
    weight_decay: Annotated[float, null_means(0.0)] = Field(0.0, ge=0)


class SchedulerOptions(Section):
    """The learning rate after warm-up."""

    type: Literal["MultiStepLR", "CosineLR"] = Field(
        "MultiStepLR",
        description="MultiStepLR: constant between milestones; CosineLR: half a cosine, to the last iteration.",
    )
    milestones: Annotated[list[Annotated[int, Field(ge=1)]], null_means([])] = Field(
        default_factory=list, description="Iterations at which the rate is multiplied."
    )
    gamma: float = Field(0.5, gt=0, description="The factor at a milestone.")
    min_factor: float = Field(0.0, ge=0, le=1, description="CosineLR: the factor that the rate falls to.")

    @model_validator(mode="after")
    def _nothing_of_the_other_type(self) -> SchedulerOptions:
        if self.type == "CosineLR" and self.milestones:
            raise ValueError("milestones belong to MultiStepLR; remove them, or CosineLR")
        if self.type == "MultiStepLR" and self.min_factor:
            raise ValueError("min_factor belongs to CosineLR; remove it, or set type: CosineLR")
        return self


class GuardOptions(Section):
    """What happens to steps whose loss or gradient is not finite."""

    stop_after: int = Field(10, ge=1, description="The run ends after so many skipped steps in a row.")
    keep_batches: Annotated[int, null_means(0)] = Field(
        5, ge=0, description="Offending batches that are kept in bad_batches/."
    )


class TrainOptions(Section):
    """The training loop."""

    total_iter: int = Field(ge=1, le=10**12, description="Optimiser steps.")
    warmup_iter: Annotated[int, null_means(0)] = Field(
        0, ge=0, description="Steps over which the rate grows linearly from 0."
    )
    accumulate: int = Field(1, ge=1, description="Micro-batches for each optimiser step.")
    amp: Precision = Field("fp32", description="Autocast type of network and loss.")
    aux_amp: Precision = Field("fp32", description="Type that the frozen g computes in.")
    channels_last: bool = Field(False, description="Keep images as NHWC in memory; see docs/benchmarks.md.")
    compile: Annotated[Literal["none", "default", "reduce-overhead", "max-autotune"], null_means("none")] = Field(
        "none", description="torch.compile mode of network_g; reduce-overhead and max-autotune use CUDA graphs."
    )
    activation_checkpointing: bool = Field(
        False, description="Compute the denoiser's activations again in the backward pass: less memory, more time."
    )
    max_grad_norm: float | None = Field(None, gt=0, description="Gradients with a larger norm are scaled down to it.")
    guard: GuardOptions = GuardOptions()
    ema_decay: Annotated[Decay, null_means(0.0)] = Field(
        0.999, description="Decay of the averaged weights; 0 for those of the last step."
    )
    optim_g: OptimizerOptions = OptimizerOptions()
    scheduler: SchedulerOptions = SchedulerOptions()
    pixel_opt: Component = Field(description="Pixel loss, a registered loss.")
    perceptual_opt: Component | None = Field(None, description="Perceptual loss (LPIPSLoss); null for none.")
    grid_opt: Component | None = Field(None, description="Loss that keeps out a pixel shuffle's pattern (GridLoss).")
    perceptual_shift: int = Field(
        1,
        ge=1,
        description="The perceptual loss sees each sample from a row and a column drawn below this; at 1 always the whole. "
        "A strided backbone does not see a grid of its own period, which 4 shows it.",
    )


class TileOptions(Section):
    """Images larger than a tile are restored in overlapping tiles."""

    size: int = Field(512, ge=8, description="Side of a tile in LR pixels.")
    overlap: int = Field(64, ge=0, description="Overlap of neighbouring tiles in LR pixels.")
    blend: Literal["end", "step"] = Field(
        "end",
        description="end: finished tiles are averaged, as the released code does; step: tiles meet after every diffusion "
        "step, with Gaussian weights.",
    )

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> TileOptions:
        if self.overlap >= self.size:
            raise ValueError(f"overlap ({self.overlap}) must be smaller than size ({self.size})")
        return self


class ValOptions(Section):
    """Validation during training, and test.py."""

    val_freq: int = Field(5000, ge=1, description="Iterations between two validations.")
    save_img: bool = Field(True, description="Write the restored images.")
    suffix: Annotated[str, AfterValidator(_ending)] | None = Field(
        None, description="Appended to the names of restored images by test.py."
    )
    max_images: int | None = Field(None, ge=1, description="Use only the first images of each set.")
    tile: TileOptions | None = TileOptions()
    metrics: Annotated[dict[str, Component], BeforeValidator(_without_nulls)] = Field(
        default_factory=dict, description="Name in the table: registered metric; null leaves one of the base file out."
    )


class WandbOptions(Section):
    """A run at Weights & Biases."""

    project: str
    entity: str | None = None
    run_id: str | None = Field(None, description="Continue this run of theirs.")


class KeepBestOptions(Section):
    """Weights that are kept as ``net_g_best`` when a validation is better than all before."""

    metric: str = Field(description="A name in val.metrics.")
    dataset: str | None = Field(None, description="Name or key of a validation set; by default the first.")
    direction: Literal["max", "min"] | None = Field(
        None, description="What is better; by default what the metric says."
    )


class LoggerOptions(Section):
    """What is reported and kept."""

    print_freq: int = Field(100, ge=1, description="Iterations between two log lines.")
    save_checkpoint_freq: int = Field(10000, ge=1, description="Iterations between two checkpoints.")
    keep_last: int | None = Field(None, ge=1, description="Checkpoints that stay; null keeps all.")
    keep_best: KeepBestOptions | None = Field(None, description="Also keep the weights of the best validation.")
    weight_formats: Annotated[list[Literal["safetensors", "pth"]], Field(min_length=1)] = Field(
        ["safetensors"], description="Of models/: safetensors (averaged weights), pth (BasicSR: params, params_ema)."
    )
    use_tb_logger: bool = Field(True, description="Write TensorBoard scalars, pictures and histograms.")
    use_csv: bool = Field(True, description="Write metrics.csv: iteration, tag, value.")
    wandb: WandbOptions | None = Field(None, description="Report to Weights & Biases too.")
    pictures: Annotated[int, null_means(0)] = Field(
        4, ge=0, description="Validation images of each set that are shown step by step."
    )


class DistributedOptions(Section):
    """Several processes."""

    timeout: float = Field(
        1800, gt=0, le=10**7, description="Seconds after which a process that waits for another gives up."
    )
    heartbeat: float = Field(60, ge=0.01, le=10**6, description="Seconds between two entries in status.json.")
    bucket_mb: float = Field(25, gt=0, le=10**5, description="Size of DistributedDataParallel's gradient buckets.")


def _phase(name: str) -> str:
    if name != "train" and not name.startswith("val"):
        raise ValueError(f"a set is 'train' or its name begins with 'val', not '{name}'")
    return _folder_name(name)


Phase = Annotated[str, AfterValidator(_phase)]


class Options(Section):
    """One option file: a training run or a test run."""

    name: FolderName = Field(description="Name of the run: the folder under experiments/ or results/.")
    model_type: str = Field(description="Registered model: UPSRModel (stage two), AuxiliarySRModel (stage one: g).")
    scale: Literal[1, 2, 4, 8] = 4
    num_gpu: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="GPUs of the whole run: auto (all that were started, else the CPU), 0 for the CPU, or N."
    )
    manual_seed: int = Field(0, ge=0, description="The run's one seed.")
    degradation: DegradationOptions = DegradationOptions()
    pair_pool: PairPoolOptions = PairPoolOptions()
    datasets: Annotated[dict[Phase, DatasetOptions], BeforeValidator(_without_nulls)] = Field(
        description="'train' and any number of 'val...' sets; null leaves one of the base file out."
    )
    network_g: Component = Field(description="The network that is trained: the denoiser, or g in stage one.")
    network_aux: Component | None = Field(None, description="The frozen auxiliary network g of stage two.")
    diffusion: DiffusionOptions = DiffusionOptions()
    uncertainty: UncertaintyOptions = UncertaintyOptions()
    path: PathOptions = PathOptions()
    train: TrainOptions | None = Field(None, description="Needed by train.py.")
    val: ValOptions = ValOptions()
    logger: LoggerOptions = LoggerOptions()
    distributed: DistributedOptions = DistributedOptions()
    auto_resume: bool = Field(
        False, description="Continue from the newest valid checkpoint of this run, if there is one."
    )

    @model_validator(mode="after")
    def _validation_sets_are_told_apart(self) -> Options:
        names: dict[str, str] = {}
        for phase, dataset in self.validation_sets.items():
            other = names.setdefault((dataset.name or phase).casefold(), phase)
            if other != phase:
                raise ValueError(
                    f"datasets.{other} and datasets.{phase} have one name, '{dataset.name or phase}'; change one"
                )
        return self

    @property
    def validation_sets(self) -> dict[str, DatasetOptions]:
        """The val sets by key, in the order of the file."""
        return {phase: dataset for phase, dataset in self.datasets.items() if phase != "train"}
