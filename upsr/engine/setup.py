"""From the command line to a checked run: options, components, files, device."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

import upsr.data
import upsr.metrics
import upsr.models  # noqa: F401  (registers the models, networks and losses)
from upsr.arguments import ArgumentParser
from upsr.compat import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from upsr.config import Options, load_options
from upsr.config.components import component_problems
from upsr.config.load import refuse
from upsr.config.problems import Problem, did_you_mean
from upsr.engine.distributed import Runtime, default_launcher, runtime
from upsr.errors import UpsrError
from upsr.models.base import Purpose, RestorationModel
from upsr.weights import weight_files


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
            print(f"{error.label}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def checked_options(path: str, force_yml: Sequence[str], purpose: Purpose) -> Options:
    """Options of which every key, component and file has been checked, before anything is built."""
    opt = load_options(path, force_yml)
    refuse(path, list(_component_problems(opt)))
    refuse(path, list(_file_problems(opt, purpose)))
    return opt


def checked_model_options(path: str, force_yml: Sequence[str] = ()) -> Options:
    """As :func:`checked_options` for restoring images that come from elsewhere: the file's datasets do not matter."""
    opt = load_options(path, [*force_yml, "datasets={}"])
    refuse(path, list(_component_problems(opt)))
    return opt


def _component_problems(opt: Options) -> Iterator[Problem]:
    if opt.model_type not in MODEL_REGISTRY or not _is_ours(MODEL_REGISTRY.get(opt.model_type)):
        names = [name for name, model in MODEL_REGISTRY if _is_ours(model)]
        yield Problem("model_type", f"unknown model '{opt.model_type}'" + did_you_mean(opt.model_type, names))
    yield from component_problems(ARCH_REGISTRY, opt.network_g, "network_g")
    if opt.network_aux is not None:
        yield from component_problems(ARCH_REGISTRY, opt.network_aux, "network_aux")
    for phase, dataset in opt.datasets.items():
        yield from component_problems(DATASET_REGISTRY, dataset, f"datasets.{phase}")
    for name, metric in opt.val.metrics.items():
        yield from component_problems(METRIC_REGISTRY, metric, f"val.metrics.{name}")
    if opt.train is not None:
        yield from component_problems(LOSS_REGISTRY, opt.train.pixel_opt, "train.pixel_opt")
        for key in ("perceptual_opt", "grid_opt"):
            if (loss := getattr(opt.train, key)) is not None:
                yield from component_problems(LOSS_REGISTRY, loss, f"train.{key}")


def _is_ours(model: object) -> bool:
    """basicsr registers models of its own, which this engine cannot run."""
    return isinstance(model, type) and issubclass(model, RestorationModel)


def _file_problems(opt: Options, purpose: Purpose) -> Iterator[Problem]:
    """Files and folders that are named but absent."""
    files = {key: str(path) for key, path in weight_files(opt).items()}
    if opt.path.resume_state is not None:
        files["path.resume_state"] = opt.path.resume_state
    if purpose == "test":
        if not opt.validation_sets:
            yield Problem("datasets", "testing needs at least one 'val...' set")
    elif opt.train is None:
        yield Problem("train", "this section is needed for training")
    elif "train" not in opt.datasets:
        yield Problem("datasets.train", "this set is needed for training")
    for phase, dataset in opt.datasets.items():
        if purpose == "train" or phase != "train":
            for key, value in dataset.arguments.items():
                if key.startswith("dataroot") or key in ("meta_info", "index"):
                    files[f"datasets.{phase}.{key}"] = value
    for key, name in files.items():
        if name is not None and "://" not in name and not Path(name).exists():
            kind = "folder" if "dataroot" in key else "file"
            yield Problem(key, f"no such {kind}: {name}")


def configure_backends(device: torch.device) -> None:
    """TF32 matrix products and cuDNN's choice of algorithms on CUDA, as the released training used."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
