"""Checkpoints of a run: their content, written so that the newest valid one is always found.

``models/net_PLAYER_{iter}.safetensors`` holds the averaged weights of a player for use, ``training_states/{iter}.state``
everything that training needs, and ``training_states/{iter}.json`` is the manifest. Each file is written whole or not at all and
the manifest last, so a checkpoint whose manifest fits its state is valid however the process ended.
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
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from upsr.atomic import atomic_write, sweep
from upsr.errors import UpsrError
from upsr.provenance import digest_of, file_digest, versions

logger = logging.getLogger(__name__)

_FORMAT = 3


@dataclass(frozen=True)
class PlayerState:
    """Everything that a player needs to be trained on exactly.

    Attributes:
        params: trained parameters and buffers of its network.
        params_ema: the same with averaged parameters; empty for a player that is not averaged.
        optimizer, scaler: their state dicts.
    """

    params: Mapping[str, Tensor]
    params_ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resumed run needs to go on exactly; random draws need nothing (:mod:`upsr.rng`).

    Attributes:
        iteration: finished optimiser steps.
        position: samples of the stream that were consumed (:class:`upsr.data.GlobalBatchSampler`).
        players: in the order of their updates.
        pool: the feed's content by slot: pairs.
        guard: counts of skipped steps.
        run: what made it: seed, global batch, number of processes, and the images that it was trained on.
        options: the option file with all defaults.
    """

    iteration: int
    position: int
    players: Mapping[str, PlayerState]
    pool: Mapping[int, Mapping[str, Any]]
    guard: Mapping[str, int]
    run: Mapping[str, int]
    options: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints under one run's folder. Only the main process writes.

    Args:
        folder: ``experiments/NAME``.
        players: names of those that have weight files.
        keep_last: how many checkpoints stay; ``None`` keeps all.
        weight_formats: ``safetensors`` (averaged weights), ``pth`` (BasicSR's: ``params`` and ``params_ema``).
    """

    def __init__(
        self,
        folder: Path,
        *,
        players: Iterable[str] = ("g",),
        keep_last: int | None = None,
        weight_formats: Iterable[str] = ("safetensors",),
    ) -> None:
        self.folder = folder
        self.players = tuple(players)
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
        manifest.unlink(missing_ok=True)  # an older checkpoint of this iteration is no longer valid
        self.save_weights(name, checkpoint)
        players = {player: dict(vars(state)) for player, state in checkpoint.players.items()}
        content = {"format": _FORMAT, **vars(checkpoint), "players": players}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            hashed: Any = _HashedFile(file)  # torch asks for no more than its methods
            torch.save(content, hashed)
            record = hashed.record()
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
        """Write ``models/net_PLAYER_NAME`` of every player in the wanted formats; returns the files."""
        written = []
        for player, state in checkpoint.players.items():
            for suffix in self.weight_formats:
                path = self.models / f"net_{player}_{name}.{suffix}"
                with atomic_write(path, SafetensorError) as temporary:
                    _WEIGHT_WRITERS[suffix](checkpoint, state, temporary)
                written.append(path)
        return written

    def remove_weights(self, name: str) -> None:
        """Remove ``models/net_PLAYER_NAME`` of every player in whatever format."""
        for suffix in _WEIGHT_WRITERS:
            for player in self.players:
                (self.models / f"net_{player}_{name}.{suffix}").unlink(missing_ok=True)

    def iterations(self) -> list[int]:
        """Iterations of the checkpoints that have a manifest, newest first."""
        stems = (path.stem for path in self.states.glob("*.json"))
        return sorted((int(stem) for stem in stems if stem.isdigit()), reverse=True)

    def newest_valid(self) -> Path | None:
        """The newest checkpoint whose state is what its manifest says; the log names damaged ones."""
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
    if isinstance(content, dict) and content.get("format") == 2:
        content = _from_format_2(content)
    faults = _faults(Checkpoint, content)
    for state in () if faults else content["players"].values():
        faults += _faults(PlayerState, state)
    if faults or content.get("format") != _FORMAT:
        raise UpsrError(
            f"{path}: not a training state of this version: {'; '.join(faults) or 'its format is another'}. Its weights, if it "
            "has any, can start a new run: path.pretrain_network_g"
        )
    content.pop("format")
    players = {name: PlayerState(**state) for name, state in content.pop("players").items()}
    return Checkpoint(**content, players=players)


def _faults(kind: type, content: Any) -> list[str]:
    """Missing and unknown keys of what is read as a dataclass."""
    names = {field.name for field in fields(kind)}
    found = {str(key) for key in content} if isinstance(content, dict) else set()
    keys = {"it lacks": names - found, "it has the unknown": found - names - {"format"}}
    return [f"{fault} {', '.join(sorted(some)[:12])}" for fault, some in keys.items() if some]


def _from_format_2(content: Mapping[str, Any]) -> dict[str, Any]:
    """A state of the versions that trained one network, as the state of the player ``g``."""
    own = {field.name for field in fields(PlayerState)} & content.keys()
    players = {"g": {name: content[name] for name in own}}
    return {**{key: value for key, value in content.items() if key not in own}, "format": _FORMAT, "players": players}


def damage(path: Path) -> str | None:
    """The fault of a state, by its manifest; ``None`` if it has none."""
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
    """Counts and hashes what is written: the manifest describes the intended bytes, not those on the disk."""

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


def _safetensors(checkpoint: Checkpoint, state: PlayerState, path: Path) -> None:
    tensors = state.params_ema or state.params
    metadata = {
        "weights": "params_ema" if state.params_ema else "params",
        "iteration": str(checkpoint.iteration),
        "options_sha256": digest_of(checkpoint.options),
    }
    # save() would hold the interpreter's lock, and so stop training, for all of its time: 1.7 s of 480 MB.
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path, metadata)


def _basicsr(checkpoint: Checkpoint, state: PlayerState, path: Path) -> None:
    both = {"params": dict(state.params), "params_ema": dict(state.params_ema)}
    with path.open("wb") as file:
        torch.save({kind: tensors for kind, tensors in both.items() if tensors}, file)


_WEIGHT_WRITERS: dict[str, Callable[[Checkpoint, PlayerState, Path], None]] = {
    "safetensors": _safetensors,
    "pth": _basicsr,
}


def _manifest_of(state: Path) -> Path:
    return state.with_suffix(".json")
