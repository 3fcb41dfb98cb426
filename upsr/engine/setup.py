"""From the command line to a checked run: options, components, files, device."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from upsr.arguments import ArgumentParser
from upsr.compat import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from upsr.config import Options
from upsr.config.components import UnknownTypeError, component_problems, resolve
from upsr.config.load import read_options, refuse
from upsr.config.problems import Problem, did_you_mean, problems_of
from upsr.config.schema import Component, DatasetOptions
from upsr.engine.distributed import Runtime, default_launcher, runtime
from upsr.errors import UpsrError, told
from upsr.methods.base import Method, Training
from upsr.methods.build import method_class

Purpose = Literal["train", "test"]


def parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """The arguments that train.py and test.py share."""
    result = ArgumentParser(description=description, epilog=epilog)
    result.add_argument("-opt", "--opt", required=True, metavar="FILE.yml", help="option file, see options/")
    result.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default=default_launcher(),
        help="how the processes were started: none (one process), pytorch (torchrun), slurm (srun); by default pytorch "
        "under torchrun, else none",
    )
    result.add_argument(
        "--force_yml",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override options: train.total_iter=1000 datasets.train.batch_size_per_gpu=4",
    )
    return result


def run_main(body: Callable[[Options, Runtime], None], arguments: argparse.Namespace, purpose: Purpose) -> int:
    """Check the options, join the processes, run ``body``; a user's mistake is one message and its exit code."""
    is_main = True
    try:
        opt = checked_options(arguments.opt, arguments.force_yml, purpose)
        timeout = datetime.timedelta(seconds=opt.distributed.timeout)
        with runtime(arguments.launcher, opt.num_gpu, timeout) as run:
            is_main = run.is_main
            body(opt, run)
    except UpsrError as error:
        if is_main or not error.together:
            return told(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def checked_options(path: str, force_yml: Sequence[str], purpose: Purpose) -> Options:
    """Options of which every key, component and file has been checked, before anything is built.

    Raises:
        UpsrError: names everything that is wrong.
    """
    data = read_options(path, force_yml)
    refuse(path, [*problems_of(Options, data), *component_problems_in(data), *_file_problems(data, purpose)])
    return Options.model_validate(data)


def checked_model_options(path: str, force_yml: Sequence[str] = ()) -> Options:
    """As :func:`checked_options` for restoring images that come from elsewhere: the file's datasets do not matter."""
    data = read_options(path, [*force_yml, "datasets={}"])
    refuse(path, [*problems_of(Options, data), *component_problems_in(data)])
    return Options.model_validate(data)


def component_problems_in(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the components of an option file, whatever else may be."""
    model = data.get("model_type")
    if isinstance(model, str):
        yield from _model_problems(model)
    for where in _networks_of(data):
        yield from _problems_at(ARCH_REGISTRY, Component, data.get(where), where)
    for phase, dataset in _entries(data, "datasets"):
        yield from _problems_at(DATASET_REGISTRY, DatasetOptions, dataset, f"datasets.{phase}")
        yield from _problems_of_use(phase, dataset)
    for name, metric in _entries(_section(data, "val"), "metrics"):
        yield from _problems_at(METRIC_REGISTRY, Component, metric, f"val.metrics.{name}")
    for key in ("pixel_opt", "perceptual_opt", "grid_opt"):
        yield from _problems_at(LOSS_REGISTRY, Component, _section(data, "train").get(key), f"train.{key}")


def _section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section, empty where the file has something else in its place, which the schema refuses."""
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _entries(data: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return [(name, entry) for name, entry in _section(data, key).items() if entry is not None]


def _problems_at(registry: Any, schema: type[Component], raw: Any, where: str) -> Iterator[Problem]:
    if isinstance(raw, Mapping) and isinstance(raw.get("type"), str):
        yield from component_problems(registry, schema.model_construct(**raw), where)


def _problems_of_use(phase: str, raw: Any) -> Iterator[Problem]:
    """A training set gives crops, which :class:`upsr.engine.feed.PairFeed` binds to the run's seed, a validation set images."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("type"), str):
        return
    try:
        gives_crops = hasattr(resolve(DATASET_REGISTRY, raw["type"]), "bind")
    except UnknownTypeError:
        return  # is told already
    if phase == "train" and not gives_crops:
        yield Problem(
            "datasets.train.type",
            f"{raw['type']} is no training set; use RealESRGANDataset, which makes LR images of a folder of HR photos, or "
            "TaughtDataset with stored pairs (docs/training.md)",
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


def _method_of(data: Mapping[str, Any]) -> type[Method] | None:
    """The method of an option file; ``None`` where it names none, which is refused elsewhere."""
    try:
        return method_class(str(data.get("model_type")))
    except (UnknownTypeError, AttributeError):
        return None


def _networks_of(data: Mapping[str, Any]) -> list[str]:
    """The sections that describe networks."""
    method = _method_of(data)
    return method.sections() if method is not None else []


def _model_problems(name: str) -> Iterator[Problem]:
    """basicsr registers models of its own, which this engine cannot run."""
    ours = [known for known, model in MODEL_REGISTRY if issubclass(model, (Method, Training))]
    try:
        if issubclass(resolve(MODEL_REGISTRY, name), (Method, Training)):
            return
        message = f"unknown model '{name}': it is no upsr.methods.Method or Training"
    except UnknownTypeError as error:
        message = str(error) if "." in name else f"unknown model '{name}'"
    yield Problem("model_type", message + did_you_mean(name, ours))


def _file_problems(data: Mapping[str, Any], purpose: Purpose) -> Iterator[Problem]:
    """Files and folders that are named but absent, and sections that the purpose needs."""
    paths = {key: value for key, value in _section(data, "path").items() if isinstance(value, str)}
    method = _method_of(data)
    named = method.weight_files(data) if method is not None else {}
    files: dict[str, Any] = {key: str(path) for key, path in named.items()}
    files["path.resume_state"] = paths.get("resume_state")
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
            kind = "folder" if "dataroot" in key else "file"
            yield Problem(key, f"no such {kind}: {name}")


def configure_backends(device: torch.device) -> None:
    """TF32 matrix products and cuDNN's choice of algorithms on CUDA, as the released training used."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
