"""From the command line to a checked run: options, components, files, device."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

import upsr.data
import upsr.metrics  # noqa: F401  (both register their classes)
from upsr.compat import DATASET_REGISTRY, REGISTRIES
from upsr.config.components import UnknownTypeError, all_component_problems, resolve
from upsr.config.load import option_problems, parse_options, read_options, refuse
from upsr.config.methods import UnknownMethodError, find_method
from upsr.config.problems import Problem
from upsr.config.schema import CommonOptions
from upsr.devices import is_cuda
from upsr.engine.distributed import Runtime, runtime
from upsr.engine.feed import TrainingSet
from upsr.errors import UpsrError, exiting
from upsr.homes import option_file
from upsr.weights import named_weights, section
from upsr.weights.catalogue import fetch_hint

Purpose = Literal["train", "test"]


@exiting
def run_main(body: Callable[[CommonOptions, Runtime], object], arguments: argparse.Namespace, purpose: Purpose) -> None:
    """Check the options, join the processes, run ``body``; returns the exit code."""
    opt = checked_options(option_file(arguments.opt), arguments.force_yml, purpose)
    with runtime(arguments.launcher, opt.num_gpu, datetime.timedelta(seconds=opt.distributed.timeout)) as run:
        try:
            body(opt, run)
        except UpsrError as error:
            if run.is_main or not error.together:
                raise
            raise SystemExit(error.exit_code) from None  # the main process prints it


def checked_options(path: str, force_yml: Sequence[str], purpose: Purpose) -> CommonOptions:
    """Options of which every key, component and file has been checked, before anything is built.

    Raises:
        UpsrError: names everything that is wrong.
    """
    data = read_options(path, force_yml)
    refuse(path, [*option_problems(data), *component_problems_in(data), *_file_problems(data, purpose)])
    return parse_options(data, path)


def checked_model_options(path: str, force_yml: Sequence[str] = ()) -> CommonOptions:
    """As :func:`checked_options` for restoring images that come from elsewhere: the file's datasets do not matter."""
    data = read_options(path, [*force_yml, "datasets={}"])
    refuse(path, [*option_problems(data), *component_problems_in(data)])
    return parse_options(data, path)


def component_problems_in(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that is wrong with the components of an option file, whatever else may be."""
    try:
        schema = find_method(data).options
    except UnknownMethodError:
        return  # a problem of the options' structure
    yield from all_component_problems(REGISTRIES, schema, data)
    for phase, dataset in _entries(data, "datasets"):
        yield from _problems_of_use(phase, dataset)
    yield from _problems_of_losses(section(data, "train"))


def _problems_of_losses(train: Mapping[str, Any]) -> Iterator[Problem]:
    """A pixel loss of no weight is for a training on other losses: alone, it would run to its end and learn nothing."""
    pixel = train.get("pixel_opt")
    alone = not any(train.get(key) for key in ("perceptual_opt", "grid_opt", "gan_opt"))
    if isinstance(pixel, Mapping) and pixel.get("loss_weight") == 0 and alone:
        yield Problem(
            "train.pixel_opt.loss_weight", "is 0 and there is no other loss: nothing would be learnt; give it a weight"
        )


def _entries(data: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return [(name, entry) for name, entry in section(data, key).items() if entry is not None]


def _problems_of_use(phase: str, raw: Any) -> Iterator[Problem]:
    """A training set gives crops, see :class:`upsr.engine.feed.TrainingSet`, a validation set images."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("type"), str):
        return
    try:
        gives_crops = issubclass(resolve(DATASET_REGISTRY, raw["type"]), TrainingSet)
    except UnknownTypeError:
        return  # is reported already
    if phase == "train" and not gives_crops:
        yield Problem(
            "datasets.train.type",
            f"{raw['type']} is no training set; use RealESRGANDataset, which makes LR images of a folder of HR photos, "
            "PairedCropsDataset (HR and LR) or TaughtDataset with stored pairs (docs/training.md)",
        )
    elif phase.startswith("val") and gives_crops:
        yield Problem(
            f"datasets.{phase}.type",
            f"{raw['type']} is a training set; validate on BicubicFolderDataset (HR photos), PairedFolderDataset (HR and LR), "
            "FolderDataset (LR) or TaughtPairsDataset",
        )


def names_a_file(key: str) -> bool:
    """Whether an argument of a dataset is a folder or file that it reads."""
    return key.startswith("dataroot") or key in ("meta_info", "index")


def _file_problems(data: Mapping[str, Any], purpose: Purpose) -> Iterator[Problem]:
    """Files and folders that are named but absent, and sections that the purpose needs."""
    try:
        found = find_method(data)
    except UnknownMethodError:
        return
    files: dict[str, Any] = {key: str(path) for key, path in named_weights(data, found).items()}
    files["path.resume_state"] = section(data, "path").get("resume_state")
    sets = _entries(data, "datasets")
    if purpose == "test":
        if isinstance(data.get("datasets"), Mapping) and all(phase == "train" for phase, _ in sets):
            yield Problem("datasets", "testing needs at least one 'val...' set")
    elif data.get("train") is None:
        yield Problem("train", "this section is needed for training")
    elif isinstance(data.get("datasets"), Mapping) and all(phase != "train" for phase, _ in sets):
        yield Problem("datasets.train", "this set is needed for training")
    for phase, dataset in sets:
        if isinstance(dataset, Mapping) and (purpose == "train" or phase != "train"):
            for key, value in dataset.items():
                if names_a_file(key):
                    files[f"datasets.{phase}.{key}"] = value
    for key, name in files.items():
        if isinstance(name, str) and "://" not in name and not Path(name).exists():
            kind = "folder" if "dataroot" in key or key in found.method.folder_keys.values() else "file"
            yield Problem(key, f"no such {kind}: {name}{fetch_hint([name])}")


def configure_backends(device: torch.device) -> None:
    """TF32 matrix products and cuDNN's choice of algorithms on CUDA, as the released training used."""
    if is_cuda(device):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
