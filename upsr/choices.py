"""Names and defaults that commands, option files and code share. Imports nothing heavy, so that ``--help`` needs no torch."""

from __future__ import annotations

from typing import Literal, get_args

CompileMode = Literal["none", "default", "reduce-overhead", "max-autotune"]
"""Of ``torch.compile``; with the last two a GPU replays recorded graphs."""
COMPILE_MODES: tuple[CompileMode, ...] = get_args(CompileMode)

OPENVINO = "openvino"
COMPILERS = (*COMPILE_MODES, OPENVINO)
"""Forms of the denoiser while restoring: as it is, by ``torch.compile``, or in OpenVINO."""

DType = Literal["float32", "bfloat16", "float16", "int8", "float8"]
"""Type that the denoiser computes in while restoring; int8 and float8 are types of its weights alone."""
DTYPES: tuple[DType, ...] = get_args(DType)

Precision = Literal["fp32", "bf16", "fp16"]
"""Autocast type of a training."""

Sampler = Literal["ddim", "posterior"]
"""``"ddim"`` is deterministic after its start; ``"posterior"`` is Eq. 8 of the paper."""

Spacing = Literal["endpoint", "released"]
"""Steps that a sampler with fewer calls than steps keeps, see :func:`upsr.diffusion.schedule.respace`."""

NoiseSchedule = Literal["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2", "cosine"]
"""Betas of a variance-preserving process, see :func:`upsr.diffusion.variance_preserving.schedule_betas`."""

Prediction = Literal["epsilon", "sample", "v_prediction"]
"""Output of a network of a variance-preserving process: the noise, x_0, or v = sqrt(a) eps - sqrt(1 - a) x_0."""

VPSampler = Literal["ddim", "ddpm"]
"""Reverse step of a variance-preserving process."""

NoiseSource = Literal["counter", "sequential"]
"""Generator of a restoration's noise, see :mod:`upsr.restoring.noise`."""
NOISE_SOURCES: tuple[NoiseSource, ...] = get_args(NoiseSource)
NOISE: NoiseSource = "counter"
"""The default; results that an earlier version recorded are of the other."""

ColourFix = Literal["none", "adain", "wavelet"]
COLOUR_FIXES: tuple[ColourFix, ...] = get_args(ColourFix)

ExportFormat = Literal["onnx", "torch", "aoti"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

TableFormat = Literal["csv", "parquet"]
"""Of an evaluation's values by image."""
TABLE_FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)

Launcher = Literal["none", "pytorch", "slurm"]
"""How the processes of a run were started: one alone, by torchrun, by srun."""
LAUNCHERS: tuple[Launcher, ...] = get_args(Launcher)

Shared = Literal["photos", "tiles"]
"""Unit of work that several devices share."""
SHARED: tuple[Shared, ...] = get_args(Shared)

DEFAULT_WEIGHTS = "tiny-1"
"""Shipped weights that are used unless others are named."""

MAX_MEGAPIXELS = 100
"""Larger photos are refused."""

QUALITY = 95
"""Of JPEG, WebP and AVIF, 1 to 100."""

PORT = 7860
"""Of the page in the browser."""

DATASETS_ROOT = "datasets"
"""Folder of the benchmarks."""

RUNS_ROOT = "experiments"
"""Folder of the training runs."""
