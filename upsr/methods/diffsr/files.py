"""Folders of diffusers that hold an unconditional diffusion model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from upsr.choices import NoiseSchedule, Prediction
from upsr.errors import UpsrError
from upsr.weights.diffusers_folder import class_in

_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
_NETWORK = "UNet2DModel"
_OPTIONS = {
    "beta_schedule": "schedule",
    "num_train_timesteps": "steps",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "prediction_type": "prediction",
    "clip_sample": "clip",
}
"""Options of the section ``diffusion`` by the keys of a scheduler's config."""
_ALLOWED = {"beta_schedule": get_args(NoiseSchedule), "prediction_type": get_args(Prediction)}


def released_options(path: Path) -> dict[str, Any] | None:
    """Options of the model in a folder: of a pipeline with ``unet`` and ``scheduler``, or of a network alone, whose process is
    then the default.

    Raises:
        UpsrError: the scheduler is of a kind that is not known here.
    """
    kind = class_in(path)
    if kind not in (*_PIPELINES, _NETWORK):
        return None
    network = path / "unet" if kind in _PIPELINES else path
    scheduler = path / "scheduler" / "scheduler_config.json"
    diffusion = _diffusion(scheduler) if kind in _PIPELINES else {}
    return {
        "method": "diffsr",
        "network_g": {"type": "DiffusersUNet2D", "path": str(network.absolute())},
        "diffusion": diffusion,
        "path": {},
    }


def _diffusion(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UpsrError(f"{path}: not a readable scheduler of diffusers ({error})") from None
    for key, allowed in _ALLOWED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise UpsrError(f"{path}: {key} is {config[key]}; Diff-SR knows {', '.join(allowed)}")
    if config.get("trained_betas") is not None:
        raise UpsrError(f"{path}: it has betas of its own (trained_betas); Diff-SR knows schedules by their names")
    # diffusers' defaults, where the file leaves them out.
    usual = {
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction_type": "epsilon",
        "clip_sample": True,
    }
    return {option: config.get(key, usual.get(key, 1000)) for key, option in _OPTIONS.items()}
