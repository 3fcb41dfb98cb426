"""The keys that the option files of all methods share, as typed structures; a method adds its own by a subclass.

Unknown keys and wrong types are refused when the file is read (:mod:`upsr.config.load`). Keys of a registered
component (a network, a dataset, a loss, a metric) are the annotated arguments of its constructor and are checked
against them (:mod:`upsr.config.components`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator
from pydantic_core import core_schema

from upsr import choices
from upsr.choices import NOISE, RUNS_ROOT, CompileMode, NoiseSource
from upsr.config.schema_data import DegradationOptions


class Section(BaseModel):
    """A section of the option file that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class NullMeans:
    """Annotation of an option whose value for "nothing" may also be written as null."""

    value: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Exchanges null for the value before the validation."""
        return core_schema.no_info_before_validator_function(
            lambda given: self.value if given is None else given, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Null beside the values of the type."""
        return {"anyOf": [handler(schema), {"type": "null"}]}


Precision = Annotated[choices.Precision, NullMeans("fp32")]


def _folder_name(name: str) -> str:
    if not name.strip() or name in (".", "..") or any(c in "/\\:" or ord(c) < 32 for c in name):
        raise ValueError(f"{name!r} becomes a folder's name; write it without / \\ : and line breaks")
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]


def _ending(text: str) -> str:
    if any(c in "/\\" or ord(c) < 32 for c in text):
        raise ValueError(f"{text!r} becomes part of a file's name; write it without / \\ and line breaks")
    return text


@dataclass(frozen=True)
class WithoutNulls:
    """Annotation of a mapping in which an entry of null leaves out what a base file has under that name."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Leaves them out before the validation."""
        return core_schema.no_info_before_validator_function(
            lambda given: {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given,
            handler(source),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Null beside the values' type."""
        found = handler.resolve_ref_schema(handler(schema))
        return {**found, "additionalProperties": {"anyOf": [found["additionalProperties"], {"type": "null"}]}}


class Component(BaseModel):
    """A registered class by name, and the keyword arguments of its constructor.

    Attributes:
        registry: name of the registry that it is in.
    """

    registry: ClassVar[str]
    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="Registered name, or the path of a class of your own: docs/extending.md.")

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but ``type``."""
        return dict(self.model_extra or {})


class NetworkComponent(Component):
    """A network."""

    registry = "arch"


class LossComponent(Component):
    """A loss."""

    registry = "loss"


class MetricComponent(Component):
    """A metric."""

    registry = "metric"


class DatasetComponent(Component):
    """A dataset."""

    registry = "dataset"


class DatasetOptions(DatasetComponent):
    """A dataset and how it is read."""

    name: FolderName | None = Field(
        None, description="Name in logs and result folders; by default the key of the section."
    )
    batch_size_per_gpu: int = Field(1, ge=1, description="Images of one process in one forward pass.")
    num_worker_per_gpu: int = Field(0, ge=0, le=1024, description="Loader processes of each training process.")


class PairPoolOptions(Section):
    """The training-pair pool, which mixes degradations within a batch."""

    pairs_per_slot: Annotated[int, NullMeans(0)] = Field(
        10, ge=0, description="Stored pairs for each sample of the batch (released: 160 for a batch of 16); 0 for none."
    )


class PathOptions(Section):
    """Where results go, and what a run continues from. Methods add the keys of their weights."""

    allow_random_weights: bool = Field(
        False, description="Go on where weights that a run needs are not given: dry runs, not results."
    )
    resume_state: str | None = Field(None, description="Training state to continue from (.state).")
    experiments_root: str = Field(RUNS_ROOT, description="Folder of training runs.")
    results_root: str = Field("results", description="Folder of test runs.")


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerOptions(Section):
    """The optimiser, from torch.optim."""

    type: Literal["AdamW", "Adam"] = "AdamW"
    lr: float = Field(1e-4, gt=0, description="Learning rate after warm-up.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of the moments of the gradient.")
    eps: float = Field(1e-8, ge=1e-15)
    weight_decay: Annotated[float, NullMeans(0.0)] = Field(0.0, ge=0)


class SchedulerOptions(Section):
    """The learning rate after warm-up."""

    type: Literal["MultiStepLR", "CosineLR"] = Field(
        "MultiStepLR",
        description="MultiStepLR: constant between milestones; CosineLR: half a cosine, to the last iteration.",
    )
    milestones: Annotated[list[Annotated[int, Field(ge=1)]], NullMeans([])] = Field(
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
    keep_batches: Annotated[int, NullMeans(0)] = Field(
        5, ge=0, description="Offending batches that are kept in bad_batches/."
    )


class TrainOptions(Section):
    """The training loop. Methods add their losses and optimisers."""

    total_iter: int = Field(ge=1, le=10**12, description="Optimiser steps.")
    warmup_iter: Annotated[int, NullMeans(0)] = Field(
        0, ge=0, description="Steps over which the rate grows linearly from 0."
    )
    accumulate: int = Field(1, ge=1, description="Micro-batches for each optimiser step.")
    amp: Precision = Field("fp32", description="Autocast type of network and loss.")
    channels_last: bool = Field(False, description="Keep images as NHWC in memory; see docs/benchmarks.md.")
    compile: Annotated[CompileMode, NullMeans("none")] = Field(
        "none", description="torch.compile mode of network_g; reduce-overhead and max-autotune use CUDA graphs."
    )
    activation_checkpointing: bool = Field(
        False, description="Compute the denoiser's activations again in the backward pass: less memory, more time."
    )
    max_grad_norm: float | None = Field(None, gt=0, description="Gradients with a larger norm are scaled down to it.")
    guard: GuardOptions = GuardOptions()
    ema_decay: Annotated[Decay, NullMeans(0.0)] = Field(
        0.999, description="Decay of the averaged weights; 0 for those of the last step."
    )
    scheduler: SchedulerOptions = SchedulerOptions()


class TileOptions(Section):
    """Images larger than a tile are restored in overlapping tiles."""

    size: int = Field(
        512,
        ge=8,
        description="About the side of a tile in LR pixels. With blend: step tiles are rectangles of up to 1.5 times its area "
        "and twice its side, so that they make the least work; with blend: end they are squares of exactly this side.",
    )
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
    noise: NoiseSource = Field(
        NOISE,
        description="Generator of the noise, in upsr evaluate too: one by counters, which draws on the device, or torch's for "
        "CPUs, whose numbers come one after another. Another generator is other noise.",
    )
    metrics: Annotated[dict[str, MetricComponent], WithoutNulls()] = Field(
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
    save_beside: bool = Field(
        True,
        description="Write checkpoints while training goes on, from a copy of the state in host memory; false takes no "
        "memory for a copy, and training waits.",
    )
    keep_last: int | None = Field(None, ge=1, description="Checkpoints that stay; null keeps all.")
    keep_best: KeepBestOptions | None = Field(None, description="Also keep the weights of the best validation.")
    weight_formats: Annotated[list[Literal["safetensors", "pth"]], Field(min_length=1)] = Field(
        ["safetensors"], description="Of models/: safetensors (averaged weights), pth (BasicSR: params, params_ema)."
    )
    use_tb_logger: bool = Field(True, description="Write TensorBoard scalars, pictures and histograms.")
    use_csv: bool = Field(True, description="Write metrics.csv: iteration, tag, value.")
    wandb: WandbOptions | None = Field(None, description="Report to Weights & Biases too.")
    pictures: Annotated[int, NullMeans(0)] = Field(
        4, ge=0, description="Validation images of each set that are shown step by step."
    )


class DistributedOptions(Section):
    """Several processes."""

    timeout: float = Field(
        1800, gt=0, le=10**7, description="Seconds after which a process that waits for another gives up."
    )
    heartbeat: float = Field(60, ge=0.01, le=10**6, description="Seconds between two entries in status.json.")
    bucket_mb: float = Field(25, gt=0, le=10**5, description="Size of DistributedDataParallel's gradient buckets.")


def _set_name(name: str) -> str:
    if name != "train" and not name.startswith("val"):
        raise ValueError(f"a set is 'train' or its name begins with 'val', not '{name}'")
    return _folder_name(name)


SetName = Annotated[str, AfterValidator(_set_name)]


class CommonOptions(Section):
    """A training run or a test run of any method."""

    name: FolderName = Field(description="Name of the run: the folder under experiments/ or results/.")
    method: str | None = Field(
        None, description="Method by name, or by the path of a module or class of your own: docs/extending.md."
    )
    phase: str | None = Field(None, description="Which of the method's trainings; by default the first.")
    model_type: str | None = Field(None, description="Older key for method and phase in one.")
    scale: Literal[1, 2, 4, 8] = Field(4, description="Upscaling factor.")
    num_gpu: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="GPUs of the whole run: auto (all that were started, else the CPU), 0 for the CPU, or N."
    )
    manual_seed: int = Field(0, ge=0, description="The run's one seed.")
    degradation: DegradationOptions = DegradationOptions()
    pair_pool: PairPoolOptions = PairPoolOptions()
    datasets: Annotated[dict[SetName, DatasetOptions], WithoutNulls()] = Field(
        description="'train' and any number of 'val...' sets; null leaves one of the base file out."
    )
    path: PathOptions = PathOptions()
    train: TrainOptions | None = Field(None, description="Needed by train.py.")
    val: ValOptions = ValOptions()
    logger: LoggerOptions = LoggerOptions()
    distributed: DistributedOptions = DistributedOptions()
    auto_resume: bool = Field(
        False, description="Continue from the newest valid checkpoint of this run, if there is one."
    )

    @classmethod
    def of_method(cls) -> tuple[str, ...]:
        """Keys that say which method it is and what it is made of, for saved pipelines."""
        own = [key for key in cls.model_fields if key not in CommonOptions.model_fields]
        return ("method", "phase", "model_type", "scale", *own)

    @model_validator(mode="after")
    def _no_two_sets_have_one_name(self) -> CommonOptions:
        names: dict[str, str] = {}
        for key, dataset in self.validation_sets.items():
            other = names.setdefault((dataset.name or key).casefold(), key)
            if other != key:
                raise ValueError(
                    f"datasets.{other} and datasets.{key} have one name, '{dataset.name or key}'; change one"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_unused_names(self, handler: Any) -> dict[str, Any]:
        """Options that name their method in one way record it in this way."""
        unused = {key for key in ("method", "phase", "model_type") if getattr(self, key) is None}
        return {key: value for key, value in handler(self).items() if key not in unused}

    @property
    def validation_sets(self) -> dict[str, DatasetOptions]:
        """The val sets by key, in the order of the file."""
        return {key: dataset for key, dataset in self.datasets.items() if key != "train"}
