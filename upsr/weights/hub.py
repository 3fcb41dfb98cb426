"""Folders of models: on this machine, in the cache of the Hugging Face Hub, or fetched from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upsr.errors import MissingFileError, UpsrError

_DESCRIPTIONS = ["*.json", "*.txt"]
_FILES = (".pth", ".pt", ".ckpt", ".safetensors", ".yml", ".yaml")
_OTHER_FORMS = ["*.fp16.*", "*.bf16.*", "*.non_ema.*", "*onnx*", "*openvino*"]
"""Files that hold the same weights once more."""


def is_repository(name: str) -> bool:
    """The name has the form ``user/name``, and could be of a repository."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and Path(name).suffix not in _FILES


def hub_folder(name: str, **hub: Any) -> Path:
    """The folder of a repository with its descriptions and weights, from the cache or the network.

    Args:
        hub: for ``huggingface_hub.snapshot_download``: revision, token, cache_dir, local_files_only.

    Raises:
        UpsrError: the hub has no such repository, or does not answer.
    """
    from huggingface_hub import snapshot_download  # here: only a name that is no path needs it
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def fetched(weights: str) -> Path:
        patterns = [*_DESCRIPTIONS, weights]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=_OTHER_FORMS, **hub))

    try:
        found = fetched("*.safetensors")
        # Pickled weights are fetched where there are no others.
        return found if any(found.rglob("*.safetensors")) else fetched("*.bin")
    except HFValidationError as error:
        raise UpsrError(
            f"{name}: neither a file or folder nor a repository's name ({' '.join(str(error).split())})"
        ) from None
    except Exception as error:  # what is wrong with a network has many names
        # Of a hub that does not answer only the first line says why; the rest is about folders of its cache.
        text = str(error).partition("\n")[0] if isinstance(error, LocalEntryNotFoundError) else str(error)
        reason = " ".join(text.split())[:200]
        message = f"{name}: no such folder here, and the Hugging Face Hub did not give it ({reason})"
        raise MissingFileError(message, name) from None


def folder_of(name: str, **hub: Any) -> Path:
    """The folder that a name means: on this machine, or else of the hub.

    Raises:
        UpsrError: there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_repository(name):
        raise MissingFileError(f"{name}: no such folder", name)
    return hub_folder(name, **hub)


def folder_files(name: str) -> list[Path]:
    """The weight files in a folder and their descriptions, as far as it is on this machine.

    Returns:
        Without weight files the path that ``name`` is.
    """
    try:
        folder = folder_of(name, local_files_only=True)
    except UpsrError:
        return [Path(name)]
    for ending in ("*.safetensors", "*.bin"):
        if found := sorted(folder.rglob(ending)):
            return found + sorted(folder.rglob("*.json"))
    return [Path(name)]
