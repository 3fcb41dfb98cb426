"""Published weights put to the test: loaded strictly, counted, and a restoration compared with an earlier one.

Digests say that a file is the recorded one. A restoration says that this code, with this torch on this machine, still makes of it
what it made before.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upsr.archs.weights import check_finite, load_network_weights
from upsr.compat import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY
from upsr.config.components import build
from upsr.config.schema import LossComponent, MetricComponent, NetworkComponent
from upsr.errors import UpsrError
from upsr.methods.base import Knob, Method
from upsr.pipeline.files import load_model
from upsr.restoring import ModelRestorer
from upsr.rng import torch_generator
from upsr.weights.catalogue import Entry, read_catalogue
from upsr.weights.diffusers_folder import class_in, read_network
from upsr.weights.lock import NAME, Lock
from upsr.weights.places import model_place

TOLERANCE = 0.03
"""Largest median difference of two restorations in a colour, in grey levels of 255.

Measured with Real-ESRGAN and UPSR-tiny: other threads and other convolutions of float32 change nothing in the record's 0.01.
With Real-ESRGAN, weights rounded to bfloat16 (eight times coarser than float16) give 0.07, one tensor made 10 % larger 0.04 to
0.14.
The median leaves out the few cells in which a code of a VQ autoencoder tips over by rounding.
"""

_SIDE, _STEPS = 32, 4
_CELLS = 8
"""Cells along each side of the result whose means are kept."""

Networks = Mapping[str, nn.Module]


def verify_entry(name: str, entry: Entry, folder: Path) -> str:
    """Load what an entry of the catalogue is, and compare its restoration with that of the catalogue or of the lock file.

    The first restoration of weights that the catalogue has none of is recorded in the lock file.

    Args:
        folder: with the files, whose digests were compared before.

    Returns:
        What was found, for people.

    Raises:
        UpsrError: a tensor is missing, unknown, of another shape or not finite, or numbers are not the recorded ones.
    """
    if entry.made is not None and not (folder / entry.made).is_dir():
        return f"digests only; to load it: {entry.then}"
    make = next((make for key, make in _MAKERS.items() if getattr(entry, key) is not None), None)
    if make is None:
        return "digests only; nothing in this package loads it by itself"
    networks, method = make(entry, folder)
    for part, network in networks.items():
        check_finite(network.state_dict(), part)
    counts = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    for part, expected in entry.parameters.items():
        if counts.get(part) != expected:
            raise UpsrError(f"{part} has {counts.get(part, 0):,} parameters in place of {expected:,}; fetch it again")
    found = f"loads ({', '.join(f'{part} {count:,}' for part, count in counts.items())} parameters)"
    return found if method is None else f"{found}; {_compared(name, entry, restored_values(method), Lock(folder))}"


def restored_values(method: Method) -> list[float]:
    """The restoration of a picture made here, as means over 8 x 8 cells of each channel, in grey levels.

    It is computed in float32 on the CPU, with at most four network calls where the method lets their number be set.

    Raises:
        UpsrError: it is not finite.
    """
    steps = method.knobs().get("steps")
    if isinstance(steps, Knob):
        method = method.adjusted(steps=min(steps.default or steps.high, _STEPS))
    # The noise of the values that are recorded.
    restorer = ModelRestorer(method.eval(), seed=0, noise="sequential")
    result = restorer(_picture(method.facts.channels), ["verification"])
    if not result.isfinite().all():
        raise UpsrError("its restoration is not finite; fetch it again")
    return [round(value, 2) for value in (255 * F.adaptive_avg_pool2d(result, _CELLS)).flatten().tolist()]


def _picture(channels: int) -> Tensor:
    """(1, channels, 32, 32) in [0, 1], whole grey levels: waves, a bright square and noise from a seed."""
    rows, columns = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    waves = [torch.sin(rows / (3 + c)) * torch.cos(columns / (5 - c)) for c in range(channels)]
    image = 0.5 + 0.2 * torch.stack(waves)[None]
    image[..., 8:14, 18:26] = 0.9
    noise = torch.rand(image.shape, generator=torch_generator(0, "verification"))
    return ((image + 0.1 * (noise - 0.5)) * 255).round() / 255


def _compared(name: str, entry: Entry, values: list[float], lock: Lock) -> str:
    recorded, whose = entry.restored, "the catalogue"
    if recorded is None:
        recorded, whose = lock.restored(name), NAME
    if recorded is None:
        lock.add_restored(name, values)
        return f"its restoration is recorded in {NAME}"
    if len(recorded) != len(values):
        raise UpsrError(f"its restoration has {len(values)} values, and {whose} {len(recorded)} of another method")
    apart = [abs(a - b) for a, b in zip(values, recorded, strict=True)]
    channels = [apart[start : start + _CELLS**2] for start in range(0, len(apart), _CELLS**2)]
    difference = max(map(statistics.median, channels))  # a fault may be in one colour alone
    if not difference <= TOLERANCE:
        remedy = f"; where that is meant, remove '{name}' under 'restored' in {NAME}" if whose == NAME else ""
        raise UpsrError(
            f"its restoration differs by {difference:.2f} grey levels from that of {whose} (at most {TOLERANCE}): these weights, "
            f"or this version of upsr or torch, are not those of the first time{remedy}"
        )
    return f"restores as in {whose} (median difference {difference:.3f} grey levels)"


def _of_method(entry: Entry, folder: Path) -> tuple[Networks, Method | None]:
    parts = {part: folder / file for part, file in entry.parts.items()}
    method, _ = load_model(model_place(entry, folder), method=entry.method, parts=parts)
    return method.parts(), method


def _of_network(entry: Entry, folder: Path) -> tuple[Networks, Method | None]:
    network: nn.Module = build(ARCH_REGISTRY, NetworkComponent.model_validate(entry.network))
    load_network_weights(network, model_place(entry, folder))
    return {"network": network}, None


def _of_loss(entry: Entry, folder: Path) -> tuple[Networks, Method | None]:
    loss: nn.Module = build(LOSS_REGISTRY, LossComponent.model_validate(_with_paths(entry.loss, entry.files, folder)))
    return {"loss": loss}, None


def _of_metric(entry: Entry, folder: Path) -> tuple[Networks, Method | None]:
    files = {*entry.files, *(file for need in entry.needs for file in read_catalogue()[need].files)}
    metric = build(METRIC_REGISTRY, MetricComponent.model_validate(_with_paths(entry.metric, files, folder)))
    return {"metric": metric.network}, None


def _with_paths(component: Mapping[str, Any] | None, files: Container[Any], folder: Path) -> dict[str, Any]:
    """A component with paths in place of names of files."""
    return {key: str(folder / value) if value in files else value for key, value in (component or {}).items()}


def _of_repository(entry: Entry, folder: Path) -> tuple[Networks, Method | None]:
    place = model_place(entry, folder)
    kinds = {path.parent.name: class_in(path.parent) for path in sorted(place.glob("*/config.json"))}
    return {name: read_network(kind, place / name) for name, kind in kinds.items() if kind is not None}, None


_MAKERS: dict[str, Callable[[Entry, Path], tuple[Networks, Method | None]]] = {
    "method": _of_method,
    "network": _of_network,
    "loss": _of_loss,
    "metric": _of_metric,
    "repository": _of_repository,
}
"""The networks of an entry, and the method where there is one, by the key of the entry that says what it is."""
