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
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_ARGUMENTS = (
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "attention_head_dim",
    "norm_num_groups",
)
"""Arguments that DiffusersUNet2D has under the names of diffusers."""
_OF_CLASSES = ("class_embed_type", "num_class_embeds")
_OWN_BETAS = ("trained_betas", "rescale_betas_zero_snr")
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
        UpsrError: the folder has no weights, or the scheduler is of a kind that is not known here.
    """
    kind = class_in(path)
    if kind not in (*_PIPELINES, _NETWORK):
        return None
    network = path / "unet" if kind in _PIPELINES else path
    weights = next((network / name for name in _WEIGHTS if (network / name).is_file()), None)
    if weights is None:
        raise UpsrError(f"{network}: no weights here ({', '.join(_WEIGHTS)})")
    return {
        "method": "diffsr",
        "network_g": _network(network / "config.json"),
        "diffusion": _diffusion(path / "scheduler" / "scheduler_config.json") if kind in _PIPELINES else {},
        "path": {"pretrain_network_g": str(weights)},
    }


def _network(path: Path) -> dict[str, Any]:
    config = {key: value for key, value in _read(path).items() if not key.startswith("_")}
    channels, size = config.pop("in_channels", 3), config.pop("sample_size", None)
    if config.pop("out_channels", channels) != channels or not isinstance(size, int):
        raise UpsrError(f"{path}: Diff-SR needs a network with one sample_size and as many channels out as in")
    if classes := next((key for key in _OF_CLASSES if config.get(key) is not None), None):
        raise UpsrError(f"{path}: the network takes a class ({classes}); Diff-SR needs an unconditional one")
    named = {key: config.pop(key) for key in _ARGUMENTS if key in config}
    return {"type": "DiffusersUNet2D", "sample_size": size, "channels": channels, **named, "more": config}


def _read(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UpsrError(f"{path}: not a readable description of diffusers ({error})") from None
    return config


def _diffusion(path: Path) -> dict[str, Any]:
    config = _read(path)
    for key, allowed in _ALLOWED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise UpsrError(f"{path}: {key} is {config[key]}; Diff-SR knows {', '.join(allowed)}")
    if own := next((key for key in _OWN_BETAS if config.get(key)), None):
        raise UpsrError(f"{path}: it has betas of its own ({own}); Diff-SR knows schedules by their names")
    # diffusers' defaults, where the file leaves them out.
    usual = {
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction_type": "epsilon",
        "clip_sample": True,
    }
    return {option: config.get(key, usual.get(key, 1000)) for key, option in _OPTIONS.items()}
