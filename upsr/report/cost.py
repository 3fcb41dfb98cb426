"""Cost of methods on this machine: parameters, seconds, memory. Weights are random, since cost does not depend on them."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field

from upsr.config.methods import method_of
from upsr.config.schema import CommonOptions, Section
from upsr.data.kernels import draw_kernels
from upsr.devices import peak_gib, reset_peak
from upsr.engine.distributed import Runtime
from upsr.engine.feed import DegradedPairs, micro_batch
from upsr.engine.setup import checked_model_options, configure_backends
from upsr.engine.step import TrainingStep
from upsr.errors import UpsrError
from upsr.evaluation.entries import Entry, EntryDescription, make_ready
from upsr.homes import option_file
from upsr.methods import build_training
from upsr.restoring import ModelRestorer
from upsr.rng import torch_generator
from upsr.timing import timed

_MILLION = 1e6


class NotMeasuredError(Exception):
    """The reason for a missing number."""


class Setting(Section):
    """Size of the input that is timed."""

    batch: int = Field(1, ge=1, description="Number of LR images.")
    size: int = Field(64, ge=1, description="Side of an LR image.")


@dataclass
class CostMeter:
    """Measures each method once in each setting.

    Attributes:
        repeats: timed runs, of which the median counts.
        batch: images at once, in place of the setting's: a CPU takes minutes for what a GPU does in a second.
    """

    device: torch.device
    repeats: int
    batch: int | None = None
    _known: dict[tuple[str, str, Setting], dict[str, float]] = field(default_factory=dict)

    def measure(self, method: EntryDescription, cost: str, setting: Setting) -> float:
        """A cost, by its name in :data:`COSTS`.

        Raises:
            NotMeasuredError: it cannot be measured here.
        """
        kind = COSTS[cost]
        key = (method.name, kind.__name__, self.actual(setting))
        if key not in self._known:
            self._known[key] = kind(method, self, self.actual(setting))
        try:
            return self._known[key][cost]
        except KeyError:
            raise NotMeasuredError("the allocator counts memory on GPUs only") from None

    def actual(self, setting: Setting) -> Setting:
        """The setting that is measured."""
        return Setting(batch=self.batch or setting.batch, size=setting.size)


def _parameters(method: EntryDescription, meter: CostMeter, setting: Setting) -> dict[str, float]:
    entry = _network(method, torch.device("cpu"))
    first, aux = entry.facts["parameters"] / _MILLION, entry.facts["aux_parameters"] / _MILLION
    built = cast(ModelRestorer, entry.restorer(0, "random", [])).method
    own = sum(p.numel() for name in built.weight_keys for p in built.parts()[name].parameters()) / _MILLION
    return {
        "parameters_m": first,
        "aux_parameters_m": aux,
        "all_parameters_m": first + aux,
        "own_parameters_m": own,  # of weight files, in distinction from what is read from the folder of another model
    }


def _inference(method: EntryDescription, meter: CostMeter, setting: Setting) -> dict[str, float]:
    configure_backends(meter.device)
    restorer = _network(method, meter.device).restorer(0, "random", [])
    lq = torch.rand(setting.batch, 3, setting.size, setting.size, generator=torch_generator("cost")).to(meter.device)
    names = [str(i) for i in range(setting.batch)]
    reset_peak(meter.device)
    result = {"runtime_s": timed(lambda: restorer(lq, names), meter.device, meter.repeats, warmup=1).median}
    peak = peak_gib(meter.device)
    return result if peak is None else {**result, "memory_gib": peak}


def _training(method: EntryDescription, meter: CostMeter, setting: Setting) -> dict[str, float]:
    if not _is_ours(method):
        raise NotMeasuredError("its training is not part of this project")
    try:
        with tempfile.TemporaryDirectory() as folder, _building():
            step = _training_step(_options(method, Path(folder)), meter.device, setting)
    except UpsrError as error:
        raise NotMeasuredError(str(error)) from None
    configure_backends(meter.device)
    reset_peak(meter.device)
    result = {"train_s": timed(step, meter.device, meter.repeats, warmup=1).median}
    peak = peak_gib(meter.device)
    return result if peak is None else {**result, "train_memory_gib": peak}


COSTS: dict[str, Callable[[EntryDescription, CostMeter, Setting], dict[str, float]]] = {
    "parameters_m": _parameters,
    "aux_parameters_m": _parameters,
    "all_parameters_m": _parameters,
    "own_parameters_m": _parameters,
    "runtime_s": _inference,
    "memory_gib": _inference,
    "train_s": _training,
    "train_memory_gib": _training,
}
"""Costs by name, each with the function that measures it."""


def _training_step(opt: CommonOptions, device: torch.device, setting: Setting) -> Callable[[], None]:
    """One iteration without decoding: degradation, pair pool, the method's own forward and backward passes, update, average."""
    if opt.train is None:
        raise NotMeasuredError("its option file has no section train")
    settings = opt.train.model_copy(update={"accumulate": 1})
    training = build_training(opt).to(device).train()
    if training.feed(opt) is not None:
        raise NotMeasuredError("it is not trained on degraded pairs")
    step, feed = TrainingStep(training, settings, Runtime(device), seed=opt.manual_seed), DegradedPairs(opt, training)
    slots = range(setting.batch)
    side, channels = setting.size * feed.scale, training.method.facts.channels
    raw = {
        "gt": torch.randint(256, (setting.batch, channels, side, side), generator=torch_generator("cost"))
        .byte()
        .to(device),
        "kernels": torch.stack([draw_kernels(opt.degradation, "cost", slot) for slot in slots]).to(device),
        "key": ["random"] * setting.batch,
    }
    iterations = itertools.count()

    def iterate() -> None:
        iteration = next(iterations)
        micro = micro_batch(feed, raw, seed=opt.manual_seed, iteration=iteration, slots=slots, device=device)
        step(iteration, [micro], meanwhile=lambda: None)

    return iterate


def _is_ours(method: EntryDescription) -> bool:
    return method.make.type == "OptionFile"


def _network(method: EntryDescription, device: torch.device) -> Entry:
    """The entry; a method of this project gets random weights."""
    if _is_ours(method):
        make = method.make.model_copy(update={"force_yml": _changes(method)})
        method = method.model_copy(update={"make": make})
    try:
        with _building():
            ready = make_ready(method, device, None)
    except UpsrError as error:
        raise NotMeasuredError(str(error)) from None
    if "parameters" not in ready.facts:
        raise NotMeasuredError("made elsewhere; only its images are measured here")
    return ready


def _changes(method: EntryDescription) -> list[str]:
    """Overrides of its option file that leave the weights random."""
    given = method.make.arguments.get("force_yml", [])
    model = method_of(checked_model_options(option_file(method.make.arguments["opt"]), given)).method
    named = [f"path.{key}" for key in model.weight_keys.values()] + list(dict.fromkeys(model.folder_keys.values()))
    return [*given, "path.allow_random_weights=true", *(f"{key}=null" for key in named)]


def _options(method: EntryDescription, folder: Path) -> CommonOptions:
    """Options of a training from random weights, those of LPIPS's backbone included."""
    path, changes = option_file(method.make.arguments["opt"]), _changes(method)
    opt = checked_model_options(path, changes)
    if getattr(opt.train, "perceptual_opt", None) is None:
        return opt
    import torchvision

    backbone = folder / "vgg16.pth"
    torch.save(torchvision.models.vgg16(weights=None).state_dict(), backbone)
    return checked_model_options(path, [*changes, f"train.perceptual_opt.backbone_path={backbone}"])


@contextlib.contextmanager
def _building() -> Any:
    """Suppresses the warnings of networks that start from random weights."""
    logger = logging.getLogger("upsr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
