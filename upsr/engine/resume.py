"""Beginning of a run: the earlier folder set aside, or the state to continue from and its differences to the options."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path

from upsr.config.difference import option_differences
from upsr.config.foreign import own_part
from upsr.config.schema import CommonOptions
from upsr.engine.checkpoint import Checkpoint, CheckpointStore
from upsr.engine.distributed import job_id, restarts
from upsr.engine.heartbeat import STATUS_FILE, read_status
from upsr.engine.setup import names_a_file
from upsr.errors import UpsrError
from upsr.weights import weight_files

_LEFT_BY_A_FAILED_START = ("train.log", STATUS_FILE)


def was_restarted(folder: Path) -> bool:
    """The folder's run is this very job, which torchrun or Slurm has started again."""
    job = job_id()
    return restarts() > 0 or (job is not None and read_status(folder).get("job") == job)


def set_aside(folder: Path, opt: CommonOptions) -> None:
    """Rename the folder of an earlier run of this name, so that a new one neither overwrites its files nor uses them.

    A folder with nothing but the log and status of a start that failed stays.

    Raises:
        UpsrError: the new run reads something that lies there.
    """
    if not folder.is_dir() or all(entry.name in _LEFT_BY_A_FAILED_START for entry in folder.iterdir()):
        return
    for key, path in _read_by(opt).items():
        if folder.resolve() in path.resolve().parents:
            raise UpsrError(
                f"{key}: {path} lies in the folder that a new run named '{opt.name}' sets aside; give the run another name, or "
                "continue the earlier one with --auto-resume"
            )
    folder.rename(folder.with_name(f"{folder.name}_archived_{datetime.datetime.now():%Y%m%d_%H%M%S_%f}"))


def _read_by(opt: CommonOptions) -> dict[str, Path]:
    """Files and folders that a run reads, by key."""
    found = weight_files(opt)
    if opt.path.resume_state is not None:
        found["path.resume_state"] = Path(opt.path.resume_state)
    for phase, dataset in opt.datasets.items():
        paths = {key: value for key, value in dataset.arguments.items() if names_a_file(key) and isinstance(value, str)}
        found |= {f"datasets.{phase}.{key}": Path(value) for key, value in paths.items() if "://" not in value}
    return found


def newest_own(store: CheckpointStore) -> Path | None:
    """The newest valid checkpoint of a run, after the remains of a killed process are removed.

    Raises:
        UpsrError: it has checkpoints, and all are damaged.
    """
    store.sweep()
    state = store.newest_valid()
    if state is None and store.iterations():
        raise UpsrError(
            f"{store.states}: none of the {len(store.iterations())} checkpoints is whole; remove them to start again"
        )
    return state


def changes_since(checkpoint: Checkpoint, now: Mapping[str, int], opt: CommonOptions) -> Iterator[str]:
    """Differences of a run to the one that made a checkpoint, one a line.

    Args:
        now: as ``checkpoint.run``.
    """
    before = checkpoint.run
    for name in ("seed", "global_batch", "world_size"):
        if before[name] != now[name]:
            yield f"{name.replace('_', ' ')} {before[name]} -> {now[name]}"
    if before["global_batch"] != now["global_batch"]:
        yield f"the stream of samples goes on at sample {checkpoint.position}, in other batches"
    # States of earlier versions do not say which images they came from.
    if before.get("images_digest", now["images_digest"]) != now["images_digest"]:
        yield (
            f"datasets.train: other images, {before['images']} -> {now['images']}; the stream of samples is another from "
            "here on, so the run is no longer what one without the stop would have been"
        )
    for change in option_differences(own_part(checkpoint.options), opt.model_dump(mode="json")):
        if not change.startswith(("auto_resume:", "path.resume_state:")):
            yield change
