"""The long training of the tiny weights: the teacher caches, then every stage, each begun or gone on with as it stands.

It runs beside other work for days: at the lowest priority, on one thread, killed at any moment. What is finished is not done
again, a killed stage goes on exactly at its last checkpoint, and one line in state.txt says where it stands and how fast it is.

A training state that this version of the code cannot read does not end the training: its folder is set aside, and the stage
begins again from the newest averaged weights in it, with the iterations that are left. Where there is no folder at all,
snapshot/STAGE.safetensors beside the option files, if it is there, takes its place.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from scripts.ship_weights import halve
from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write, writable_folder
from upsr.config import CommonOptions, load_options
from upsr.config.schema_teach import TeachOptions
from upsr.engine.checkpoint import CheckpointStore, load_checkpoint
from upsr.engine.distributed import runtime
from upsr.engine.setup import checked_options
from upsr.engine.train_loop import train
from upsr.errors import UpsrError, exiting
from upsr.evaluation.teaching import read_recipe, teach

EXAMPLES = """examples:
  make train-tiny                                       everything, from where it stands
  make train-tiny ARGS="--shared /where/photos/are"     photos and weights that are not in datasets/ and experiments/
  cat experiments/tiny2/state.txt                       how far it is; kill -STOP PID pauses it, kill -CONT PID goes on

Exit codes: 0 finished; 75 stopped by a signal, run it again; 2 a mistake (one message says which)."""

STATE = "state.txt"
SNAPSHOT = "snapshot"
TEACHING = [Path("options/teaching/tiny2.yml"), Path("options/teaching/tiny2_mild.yml")]
BEGINNING = "begun_from.safetensors"
"""In a run's folder: weights that it began with in place of those its options name."""
_SECONDS = 30
_PROVIDED = {
    Path("datasets/BSDS500"): "data/train/BSDS500",
    Path("datasets/ImageNet-samples"): "data/train/ImageNet-samples",
    Path("experiments/pretrained_models/RealESRGAN_x4plus.safetensors"): "weights/RealESRGAN_x4plus.safetensors",
}
"""Files that the recipes name, and their places in a folder of shared data."""
_BACKBONE = "weights/squeezenet1_1_imagenet_torchvision.safetensors"

logger = logging.getLogger(__name__)


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument(
        "--recipe", type=Path, default=Path("options/tiny2"), metavar="FOLDER",
        help="with stage1.yml, stage2.yml and so on (options/tiny2)",
    )  # fmt: skip
    parser.add_argument(
        "--teaching", type=Path, nargs="+", default=TEACHING, metavar="RECIPE.yml",
        help=f"of each teacher cache that the last stage reads, in its order ({' '.join(map(str, TEACHING))})",
    )  # fmt: skip
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), metavar="FOLDER",
        help="data/train/ and weights/ in it are linked to where the recipe looks, if nothing is there (../shared)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of the training, and processes of the teacher (1)")
    parser.add_argument("--nice", type=int, default=19, metavar="N", help="priority below other work's, 0 to 19 (19)")
    parser.add_argument(
        "--snapshot", action="store_true", help="only write the weights so far to snapshot/ of the recipe"
    )
    given = parser.parse_args()
    os.nice(given.nice)
    torch.set_num_threads(max(1, given.threads))
    if given.snapshot:
        write_snapshot(given.recipe)
    else:
        run(given.recipe, given.teaching, given.shared, max(1, given.threads))


def run(recipe: Path, teaching: list[Path], shared: Path, threads: int) -> None:
    """Everything that is not finished."""
    changes = provide(shared)
    stages = stages_of(recipe)
    last = load_options(recipe / f"{stages[-1]}.yml", changes)
    caches = caches_of(last)
    if len(caches) != len(teaching):
        raise UpsrError(
            f"--teaching: {len(teaching)} recipes, but {stages[-1]} reads {len(caches)} caches; give one each"
        )
    folder = writable_folder(last.path.experiments_root)
    with only_one(folder), State(folder) as state:
        for path, cache in zip(teaching, caches, strict=True):
            state.stage = f"teacher cache {cache.name}"
            make_cache(read_recipe(path), cache, threads, state)
        for stage in stages:
            opt = checked_options(str(recipe / f"{stage}.yml"), [*changes, "auto_resume=true"], "train")
            run_folder = folder / opt.name
            state.stage = stage
            state.progress = lambda run_folder=run_folder: last_line(run_folder / "train.log")  # type: ignore[misc]
            begin_again_if_needed(run_folder, recipe / SNAPSHOT / f"{stage}.safetensors")
            opt = from_weights(opt, run_folder / BEGINNING)
            if not finished(run_folder, opt):
                with runtime("none", opt.num_gpu) as process:
                    train(opt, process)
        state.stage, state.progress = "finished", lambda: f"weights in {run_folder / 'models'}"


def stages_of(recipe: Path) -> list[str]:
    """Names of the stages, in their order.

    Raises:
        UpsrError: the folder has none.
    """
    if not (found := sorted(path.stem for path in recipe.glob("stage*.yml"))):
        raise UpsrError(f"{recipe}: no stage1.yml there")
    return found


def caches_of(opt: CommonOptions) -> list[Path]:
    """Folders of the teacher caches that a stage reads."""
    index = opt.datasets["train"].arguments["index"]
    return [Path(each).parent for each in ([index] if isinstance(index, str) else index)]


def make_cache(recipe: TeachOptions, cache: Path, threads: int, state: State) -> None:
    """A teacher cache, unless it is there."""

    def made() -> int:
        return len(list(cache.glob("crops-*.tar")))

    state.progress = lambda: f"{made()} of {recipe.shards} shards"
    if made() < recipe.shards or not (cache / "index.json").is_file():
        logger.info("%s: %s", cache, state.progress())
        teach(recipe, cache, threads)


def provide(shared: Path) -> list[str]:
    """Links to what is not here but in the folder of shared data; returns the options that name LPIPS's backbone there."""
    for place, name in _PROVIDED.items():
        if not place.exists() and (shared / name).exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)  # a link that leads nowhere
            place.symlink_to((shared / name).resolve())
    backbone = shared / _BACKBONE
    return [f"train.perceptual_opt.backbone_path={backbone.resolve()}"] if backbone.is_file() else []


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keeps a second training out of the folder for as long as this process lives."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UpsrError(f"{folder}: a training is at work there already; {STATE} names its process") from None
        yield


def finished(folder: Path, opt: CommonOptions) -> bool:
    """A stage has done all its iterations and written its weights."""
    total = opt.train.total_iter if opt.train else 0
    latest = folder / "models" / "net_g_latest.safetensors"
    return latest.is_file() and iteration_of(latest) >= total


def begin_again_if_needed(folder: Path, snapshot: Path) -> None:
    """Puts the weights that a stage has to begin with into its folder, where there is no state to go on with."""
    store = CheckpointStore(folder)
    state = store.newest_valid()
    if state is not None:
        try:
            load_checkpoint(state)
            return
        except UpsrError as error:
            logger.warning("%s", error)
    weights = newest_weights(store)
    if weights is not None:
        aside = folder.rename(folder.with_name(f"{folder.name}_unreadable_{datetime.datetime.now():%Y%m%d_%H%M%S}"))
        weights = aside / weights.relative_to(folder)
    elif not folder.exists() and snapshot.is_file():
        weights = snapshot
    else:
        return
    logger.warning("%s begins again from %s", folder, weights)
    with atomic_write(folder / BEGINNING) as path:
        shutil.copyfile(weights, path)


def from_weights(opt: CommonOptions, weights: Path) -> CommonOptions:
    """The rest of a training whose first iterations are in a weight file; without the file the training as it is."""
    if opt.train is None or not weights.is_file():
        return opt
    done = iteration_of(weights)
    train, scheduler = opt.train, opt.train.scheduler
    left = [milestone - done for milestone in scheduler.milestones if milestone > done]
    passed = len(scheduler.milestones) - len(left)
    changes = {
        "total_iter": max(1, train.total_iter - done),
        "scheduler": scheduler.model_copy(update={"milestones": left}),
        "optim_g": train.optim_g.model_copy(update={"lr": train.optim_g.lr * scheduler.gamma**passed}),
    }
    path = opt.path.model_copy(update={"pretrain_network_g": str(weights), "strict_load_g": True})
    return opt.model_copy(update={"train": train.model_copy(update=changes), "path": path})


def iteration_of(weights: Path) -> int:
    """The iteration that averaged weights were written at; 0 where the file does not say."""
    with safe_open(weights, "pt") as file:
        return int((file.metadata() or {}).get("iteration", 0))


def write_snapshot(recipe: Path) -> None:
    """Half-precision averaged weights of each stage that has some, beside the option files.

    Raises:
        UpsrError: no stage has weights yet.
    """
    written = []
    for stage in stages_of(recipe):
        opt = load_options(recipe / f"{stage}.yml")
        folder = Path(opt.path.experiments_root) / opt.name
        weights = newest_weights(CheckpointStore(folder))
        if weights is not None:
            before = iteration_of(folder / BEGINNING) if (folder / BEGINNING).is_file() else 0
            target = recipe / SNAPSHOT / f"{stage}.safetensors"
            halve(weights, target, {"iteration": str(before + iteration_of(weights))})
            written.append(target)
            print(f"{target}: iteration {before + iteration_of(weights)}, {target.stat().st_size / 1e6:.2f} MB")
    if not written:
        raise UpsrError(f"{recipe}: no stage has written weights yet; run it first")


def newest_weights(store: CheckpointStore) -> Path | None:
    """The averaged weights of the latest iteration in a run's folder."""
    found = [path for path in store.models.glob("net_g_*.safetensors") if path.stem.removeprefix("net_g_").isdigit()]
    return max(found, key=lambda path: int(path.stem.removeprefix("net_g_")), default=None)


def last_line(log: Path) -> str:
    """The newest report of a training log, without its time."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    reports = [line for line in lines if re.search(r"iteration \d+: (g/)?l_pix", line)]
    return reports[-1].split("INFO: ", 1)[-1] if reports else "starting"


class State:
    """A thread that keeps one line on the training in a file.

    Attributes:
        stage: what is being done.
        progress: how far it is.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE
        self.stage = "starting"
        self.progress = lambda: ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> State:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._ended.set()
        self._thread.join()
        self.write("" if error is None else f"stopped: {str(error) or type(error).__name__}")

    def _watch(self) -> None:
        while True:
            with contextlib.suppress(UpsrError):  # a full disk must not end the training from here
                self.write()
            if self._ended.wait(_SECONDS):
                return

    def write(self, more: str = "") -> None:
        """Write the line now."""
        now = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        line = " | ".join(
            filter(None, (now, self.stage, self.progress(), f"pid {os.getpid()}", " ".join(more.split())))
        )
        with atomic_write(self.path) as path:
            path.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
