"""Training state on disk, in BasicSR's layout.

``models/net_g_{iter}.pth`` holds ``params`` and ``params_ema``; ``training_states/{iter}.state`` holds the rest. The
state is written last: where it stands, its network stands.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upsr.archs.weights import read_weight_file
from upsr.atomic import atomic_write
from upsr.errors import UpsrError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resumed run needs to go on exactly; random draws need nothing (:mod:`upsr.rng`).

    Attributes:
        iteration: finished optimiser steps.
        params, params_ema: of network_g.
        optimizer, scaler: their state dicts.
        pool: pairs of all slots.
        run: seed, global batch and number of processes that made it.
    """

    iteration: int
    params: Mapping[str, Tensor]
    params_ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    pool: Mapping[int, Mapping[str, Tensor]]
    run: Mapping[str, int]


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write both files; returns the state's path."""
    name = str(checkpoint.iteration)
    save_network(folder / "models" / f"net_g_{name}.pth", checkpoint.params, checkpoint.params_ema)
    path = folder / "training_states" / f"{name}.state"
    rest = {key: value for key, value in vars(checkpoint).items() if not key.startswith("params")}
    with atomic_write(path) as temporary:
        torch.save(rest, temporary)
    return path


def save_network(path: Path, params: Mapping[str, Tensor], params_ema: Mapping[str, Tensor]) -> None:
    """Weights in BasicSR's layout."""
    with atomic_write(path) as temporary:
        torch.save({"params": dict(params), "params_ema": dict(params_ema)}, temporary)


def load_checkpoint(state: str | Path) -> Checkpoint:
    """Read a state and the network beside it.

    Raises:
        UpsrError: a file is missing, damaged, or not one of these.
    """
    state = Path(state)
    network = state.parent.parent / "models" / f"net_g_{state.stem}.pth"
    try:
        rest = torch.load(state, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UpsrError(f"{state}: no such training state") from None
    except Exception as error:  # damaged files fail in many ways inside the reader
        raise UpsrError(
            f"{state}: not a readable training state ({type(error).__name__}); choose an earlier one"
        ) from None
    weights = read_weight_file(network)
    try:
        return Checkpoint(**rest, params=weights["params"], params_ema=weights["params_ema"])
    except (TypeError, KeyError):
        raise UpsrError(f"{state}: not a training state of this project, or {network} is not its network") from None


def newest_state(folder: Path) -> Path | None:
    """The state with the largest iteration under a run's folder, whose network is there too."""
    states = [path for path in (folder / "training_states").glob("*.state") if path.stem.isdigit()]
    whole = [path for path in states if (folder / "models" / f"net_g_{path.stem}.pth").is_file()]
    return max(whole, key=lambda path: int(path.stem), default=None)
