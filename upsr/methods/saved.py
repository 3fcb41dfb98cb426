"""The files of a saved pipeline: its config, and a weight file for each part of the method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import upsr
from upsr.atomic import atomic_write
from upsr.config.schema import CommonOptions

CONFIG = "config.json"
CLASS = "UPSRPipeline"


def file_of(part: str) -> str:
    """The name of a part's weight file."""
    return f"{part}.safetensors"


def config_of(opt: CommonOptions) -> dict[str, Any]:
    """The sections that describe the model, defaults included, as a pipeline's config."""
    sections = opt.model_dump(mode="json")
    described = {key: sections[key] for key in opt.of_method() if key in sections}
    return {"_class_name": CLASS, "_upsr_version": upsr.__version__, **described}


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config, after the weights: a folder with one is whole."""
    with atomic_write(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors, which must not overlap in memory, to a safetensors file."""
    with atomic_write(file) as path:
        save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})
