"""Checkpoints of a run: what is in them, how they are written so that the newest valid one is always found.

``models/net_g_{iter}.safetensors`` holds the averaged weights for use, ``training_states/{iter}.state`` everything that
training needs, and ``training_states/{iter}.json`` is the manifest. Each file is written whole or not at all and the
manifest last, so a checkpoint whose manifest fits its state is valid however the process ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from upsr.atomic import atomic_write, sweep
from upsr.errors import UpsrError
from upsr.provenance import digest_of, file_digest, versions

logger = logging.getLogger(__name__)

_FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resumed run needs to go on exactly; random draws need nothing (:mod:`upsr.rng`).

    Attributes:
        iteration: finished optimiser steps.
        position: samples of the stream that were consumed (:class:`upsr.data.GlobalBatchSampler`).
        params, params_ema: of network_g.
        optimizer, scaler: their state dicts.
        pool: pairs of all slots.
        guard: counts of skipped steps.
        run: what made it: seed, global batch, number of processes, and the images that it was trained on.
        options: the option file with all defaults.
    """

    iteration: int
    position: int
    params: Mapping[str, Tensor]
    params_ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    pool: Mapping[int, Mapping[str, Any]]
    guard: Mapping[str, int]
    run: Mapping[str, int]
    options: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints under one run's folder. Only the main process writes.

    Args:
        folder: ``experiments/NAME``.
        keep_last: how many checkpoints stay; ``None`` keeps all.
        weight_formats: ``safetensors`` (averaged weights), ``pth`` (BasicSR's: ``params`` and ``params_ema``).
    """

    def __init__(
        self, folder: Path, *, keep_last: int | None = None, weight_formats: Iterable[str] = ("safetensors",)
    ) -> None:
        self.folder = folder
        self.states = folder / "training_states"
        self.models = folder / "models"
        self.keep_last = keep_last
        self.weight_formats = tuple(weight_formats)

    def sweep(self) -> None:
        """Remove what a killed process left unfinished."""
        for place in (self.states, self.models, self.folder):
            sweep(place)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then remove those beyond ``keep_last``; returns the state's path.

        Raises:
            UpsrError: it cannot be written; earlier checkpoints stay as they were.
        """
        name = str(checkpoint.iteration)
        path = self.states / f"{name}.state"
        manifest = _manifest_of(path)
        manifest.unlink(missing_ok=True)  # an older checkpoint of this iteration is no longer vouched for
        self.save_weights(name, checkpoint)
        content = {"format": _FORMAT, **{field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}}
        record = _write(path, lambda file: torch.save(content, file))
        description = {
            "format": _FORMAT,
            "iteration": checkpoint.iteration,
            **checkpoint.run,
            "options_sha256": digest_of(checkpoint.options),
            "versions": versions(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "files": {path.name: record},
        }
        with atomic_write(manifest) as temporary:
            temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        self._prune(checkpoint.iteration)
        return path

    def save_weights(self, name: str, checkpoint: Checkpoint) -> list[Path]:
        """Write ``models/net_g_NAME`` in the wanted formats; returns the files."""
        written = []
        for suffix in self.weight_formats:
            path = self.models / f"net_g_{name}.{suffix}"
            _write(path, lambda file, save=_WEIGHT_WRITERS[suffix]: save(checkpoint, file))  # type: ignore[misc]
            written.append(path)
        return written

    def remove_weights(self, name: str) -> None:
        """Remove ``models/net_g_NAME`` in whatever format."""
        for suffix in _WEIGHT_WRITERS:
            (self.models / f"net_g_{name}.{suffix}").unlink(missing_ok=True)

    def iterations(self) -> list[int]:
        """Iterations of the checkpoints that have a manifest, newest first."""
        stems = (path.stem for path in self.states.glob("*.json"))
        return sorted((int(stem) for stem in stems if stem.isdigit()), reverse=True)

    def newest_valid(self) -> Path | None:
        """The newest checkpoint whose state is what its manifest says; damaged ones are told and passed over."""
        for iteration in self.iterations():
            path = self.states / f"{iteration}.state"
            problem = damage(path)
            if problem is None:
                return path
            logger.warning("%s; looking for an earlier one", problem)
        return None

    def _prune(self, newest: int) -> None:
        """Remove older checkpoints beyond ``keep_last``; the weights named otherwise (latest, best) stay."""
        if self.keep_last is None:
            return
        older = [iteration for iteration in self.iterations() if iteration < newest]
        for iteration in older[self.keep_last - 1 :]:
            path = self.states / f"{iteration}.state"
            _manifest_of(path).unlink(missing_ok=True)  # first: what has a manifest is whole
            path.unlink(missing_ok=True)
            self.remove_weights(str(iteration))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a training state.

    Raises:
        UpsrError: the file is missing, damaged, or no training state of this project; the message lists what does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UpsrError(f"{path}: no such training state")
    if _manifest_of(path).is_file() and (problem := damage(path)):
        raise UpsrError(f"{problem}; choose an earlier one, or auto_resume: true for the newest that is whole")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways inside the reader
        raise UpsrError(
            f"{path}: not a readable training state, or one that holds more than tensors and plain values "
            f"({type(error).__name__}); choose an earlier one"
        ) from None
    names = {field.name for field in fields(Checkpoint)}
    found = {str(key) for key in content} if isinstance(content, dict) else set()
    faults = [
        f"{what} {', '.join(sorted(keys)[:12])}"
        for what, keys in (("it lacks", names - found), ("it has the unknown", found - names - {"format"}))
        if keys
    ]
    if faults or content["format"] != _FORMAT:
        raise UpsrError(
            f"{path}: not a training state of this version: {'; '.join(faults) or 'its format is another'}. Its weights, if it "
            "has any, can start a new run: path.pretrain_network_g"
        )
    content.pop("format")
    return Checkpoint(**content)


def damage(path: Path) -> str | None:
    """What is wrong with a state, by its manifest; ``None`` if nothing is."""
    try:
        record = json.loads(_manifest_of(path).read_text(encoding="utf-8"))["files"][path.name]
        size, digest = int(record["bytes"]), str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path}: its manifest {_manifest_of(path).name} is missing or damaged"
    if not path.is_file():
        return f"{path}: the state is missing"
    if path.stat().st_size != size:
        return f"{path}: the state is damaged: {path.stat().st_size} bytes instead of {size}"
    return None if file_digest(path) == digest else f"{path}: the state is damaged: its sha256 is another"


class _HashedFile:
    """Counts and hashes what is written, so that the manifest vouches for what was meant, not for what the disk has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def record(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}


def _write(path: Path, writer: Callable[[Any], Any]) -> dict[str, Any]:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        hashed = _HashedFile(file)
        writer(hashed)
        return hashed.record()


def _safetensors(checkpoint: Checkpoint, file: Any) -> None:
    weights = {name: value.detach().cpu().contiguous() for name, value in checkpoint.params_ema.items()}
    metadata = {
        "weights": "params_ema",
        "iteration": str(checkpoint.iteration),
        "options_sha256": digest_of(checkpoint.options),
    }
    file.write(to_safetensors(weights, metadata))


def _basicsr(checkpoint: Checkpoint, file: Any) -> None:
    torch.save({"params": dict(checkpoint.params), "params_ema": dict(checkpoint.params_ema)}, file)


_WEIGHT_WRITERS: dict[str, Callable[[Checkpoint, Any], None]] = {"safetensors": _safetensors, "pth": _basicsr}


def _manifest_of(state: Path) -> Path:
    return state.with_suffix(".json")
