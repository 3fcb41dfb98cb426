"""Whole iterations of any training, read from files, and what a checkpoint adds to them; see train_step.py --methods."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from common import FULL_SIZE, REPOSITORY, photos

from upsr.config import CommonOptions, load_options
from upsr.engine.distributed import Runtime
from upsr.engine.train_loop import Trainer
from upsr.timing import synchronise

_TINY = {
    "demo/stage1_tiny.yml": [],
    "demo/stage2_tiny.yml": ["path.pretrain_network_aux=null"],
    "tiny/one_step.yml": ["train.perceptual_opt=null"],
    "resshift/tiny.yml": [],
    "diffsr/tiny.yml": [],
    "dmsr/tiny_timestep.yml": [],
    "dmsr/tiny_dm.yml": ["path.pretrain_network_t=null"],
    "stablesr/tiny_sft.yml": [],
}
TRAININGS: dict[Path, list[str]] = {
    **{REPOSITORY / "options" / name: changes for name, changes in _TINY.items()},
    FULL_SIZE: [
        "datasets.val_1=null", "datasets.train.meta_info=null", "path.pretrain_network_aux=null",
        "train.perceptual_opt=null", "train.amp=fp32",
        "datasets.train.batch_size_per_gpu=1", "datasets.train.num_worker_per_gpu=0",
    ],
}  # fmt: skip
"""One option file for each training, and what it leaves out that is not here; stage two of StableSR needs triples."""


@dataclass(frozen=True)
class Iterations:
    """Medians, in seconds.

    Attributes:
        name: of the run, with its method.
        parameters: trained.
        state_bytes: of a training state.
        alone: an iteration without a checkpoint.
        waited: of it, waiting for data.
        stall: the loop stands still for a checkpoint beside training.
        beside: the iteration that goes on beside it.
        writing: from the beginning of a checkpoint beside training to its end.
        standing: the loop stands still for a checkpoint with ``logger.save_beside: false``.
        first_stall: of the first checkpoint, whose copy has no memory yet.
    """

    name: str
    parameters: int
    state_bytes: int
    alone: float
    waited: float
    stall: float
    beside: float
    writing: float
    standing: float
    first_stall: float


class _Loop:
    """The loop of :class:`upsr.engine.train_loop.Trainer`, one iteration at a time."""

    def __init__(self, opt: CommonOptions, folder: Path, device: torch.device) -> None:
        self.device = device
        self.trainer = Trainer(opt, Runtime(device), folder)
        self.trainer.resume()
        self.trainer.data.open(self.trainer.sampler)

    def iterate(self) -> None:
        trainer = self.trainer
        micro_batches = trainer.data.micro_batches(trainer.iteration, trainer.sampler)
        trainer.step(trainer.iteration, micro_batches, meanwhile=trainer.data.batches.prefetch)
        trainer.iteration += 1
        synchronise(self.device)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(option_file: Path, changes: Sequence[str], folder: Path, device: torch.device, repeats: int) -> Iterations:
    """Train for some iterations and checkpoints, once beside training and once without."""
    here = [
        f"datasets.train.dataroot_gt={photos(folder / 'photos')}", f"path.experiments_root={folder / 'runs'}",
        "path.allow_random_weights=true", "logger.keep_last=1", "num_gpu=auto", *changes,
    ]  # fmt: skip
    stands = _Loop(load_options(option_file, [*here, "logger.save_beside=false"]), folder / "standing", device)
    with stands.trainer.saver:
        stands.iterate()
        standing = []
        for _ in range(repeats):
            stands.iterate()
            standing.append(_seconds(stands.trainer.save))
    del stands
    opt = load_options(option_file, here)
    loop = _Loop(opt, folder / "beside", device)
    trainer = loop.trainer
    for _ in range(2):
        loop.iterate()
    before = trainer.data.batches.waited
    alone = [_seconds(loop.iterate) for _ in range(max(3, repeats))]
    waited = (trainer.data.batches.waited - before) / len(alone)
    stalls, beside, writing = [], [], []
    blocked: list[float] = []
    copied = trainer.saver.copied
    trainer.saver.copied = lambda: blocked.append(_seconds(copied))  # type: ignore[method-assign]
    with trainer.saver:
        for _ in range(repeats + 1):
            blocked.clear()
            started = time.perf_counter()
            call = _seconds(trainer.save)
            beside.append(_seconds(loop.iterate))
            trainer.saver.finish()
            writing.append(time.perf_counter() - started)
            stalls.append(call + sum(blocked))
            loop.iterate()
    newest = trainer.store.newest_valid()
    if newest is None:
        raise RuntimeError("no checkpoint was written")
    return Iterations(
        name=f"{opt.name} ({type(trainer.training).__name__}, batch {opt.datasets['train'].batch_size_per_gpu})",
        parameters=sum(p.numel() for u in trainer.step.updaters.values() for p in u.parameters.values()),
        state_bytes=newest.stat().st_size,
        alone=statistics.median(alone),
        waited=waited,
        stall=statistics.median(stalls[1:]),
        beside=statistics.median(beside[1:]),
        writing=statistics.median(writing[1:]),
        standing=statistics.median(standing),
        first_stall=stalls[0],
    )


_COLUMNS = (
    "training", "trained, millions", "state, MB", "iteration, ms", "of it data wait", "a save stands still for, ms",
    "the first, ms", "iteration beside it, ms", "written after, ms", "`save_beside: false` stands still for, ms",
)  # fmt: skip


def table(rows: Sequence[Iterations]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    for row in rows:
        milliseconds = [row.stall, row.first_stall, row.beside, row.writing, row.standing]
        cells = [
            row.name, f"{row.parameters / 1e6:.2f}", f"{row.state_bytes / 1e6:.0f}", f"{1e3 * row.alone:.0f}",
            f"{100 * row.waited / row.alone:.0f} %", *(f"{1e3 * seconds:.0f}" for seconds in milliseconds),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
