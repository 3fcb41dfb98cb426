"""Networks and schedules in folders of diffusers: a pipeline's (``model_index.json``) or a network's (``config.json``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from upsr.archs.diffusers_library import diffusers
from upsr.errors import MissingFileError, UpsrError

INDEX = "model_index.json"
_T = TypeVar("_T")
_MISFITS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def class_in(folder: Path) -> str | None:
    """diffusers' name of the pipeline or the network that a folder describes; ``None`` if it describes none."""
    for name in (INDEX, "config.json"):
        try:
            data = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and isinstance(data.get("_class_name"), str):
            return str(data["_class_name"])
    return None


def read_network(kind: str, folder: Path) -> nn.Module:
    """A network in float32, in evaluation mode, every weight of which is in its folder.

    Args:
        kind: diffusers' class: ``UNet2DModel``.
        folder: with ``config.json`` and weights.

    Raises:
        UpsrError: diffusers is not installed, the folder is damaged, or a weight is missing, unknown or of another shape.
    """
    network, info = _read(kind, folder, output_loading_info=True)
    for misfit in _MISFITS:
        if info.get(misfit):
            names = [str(name) for name in info[misfit]]
            raise UpsrError(f"{folder}: {len(names)} {misfit.replace('_', ' ')} of {kind} ({', '.join(names[:3])})")
    checked: nn.Module = network.float().eval()
    return checked


def described_network(kind: str, folder: Path) -> nn.Module:
    """A network as a folder describes it, on the device ``meta``; arguments and errors as of :func:`read_network`."""

    def build(library: Any) -> nn.Module:
        config = getattr(library, kind).load_config(str(folder), local_files_only=True)
        with torch.device("meta"):
            network: nn.Module = getattr(library, kind).from_config(config)
        return network

    return _guarded(kind, folder, build)


def read_scheduler(folder: Path) -> Any:
    """A scheduler's numbers, whatever its class: a ``DDPMScheduler`` with its config and ``alphas_cumprod``, (T,).

    Args:
        folder: with ``scheduler_config.json``.

    Raises:
        UpsrError: as :func:`read_network`.
    """
    return _read("DDPMScheduler", folder)


def _read(kind: str, folder: Path, **how: Any) -> Any:
    return _guarded(
        kind, folder, lambda library: getattr(library, kind).from_pretrained(str(folder), local_files_only=True, **how)
    )


def _guarded(kind: str, folder: Path, action: Callable[[Any], _T]) -> _T:
    """What ``action`` makes with diffusers of a folder; its failures are named in a line."""
    library = diffusers()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder; {kind} of diffusers is read from it", folder)
    log = library.utils.logging
    verbosity = log.get_verbosity()
    log.set_verbosity_error()  # it would only warn of weights that are missing
    try:
        return action(library)
    except Exception as error:  # damaged folders fail in many ways
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UpsrError(f"{folder}: diffusers cannot load it ({reason})") from None
    finally:
        log.set_verbosity(verbosity)
