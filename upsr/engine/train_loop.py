"""The training loop of every phase and method."""

from __future__ import annotations

import datetime
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from upsr.atomic import atomic_write, writable_folder
from upsr.config.load import RUN_OPTIONS
from upsr.config.schema import CommonOptions
from upsr.config.yaml_text import dump_yaml
from upsr.data import GlobalBatchSampler
from upsr.engine.checkpoint import Checkpoint, CheckpointStore, load_checkpoint
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import evaluation_mode
from upsr.engine.feed import TrainingData
from upsr.engine.guards import NonFiniteGuard
from upsr.engine.heartbeat import Heartbeat
from upsr.engine.logging import setup_logging
from upsr.engine.preemption import StopSignal
from upsr.engine.profiling import profiled
from upsr.engine.resume import changes_since, newest_own, set_aside, was_restarted
from upsr.engine.saving import Saver
from upsr.engine.setup import configure_backends
from upsr.engine.sinks import Sinks, open_sinks
from upsr.engine.step import TrainingStep
from upsr.engine.tally import Tally
from upsr.engine.validation import Validation
from upsr.errors import PreemptedError, UpsrError
from upsr.methods import build_training
from upsr.methods.build import train_options

logger = logging.getLogger(__name__)

_GO_ON, _STOP, _NO_DATA = range(3)
"""Ballots of the vote at the end of an iteration; the largest decides."""


def train(opt: CommonOptions, run: Runtime, *, profile: int | None = None) -> Path:
    """Train a method as the options say.

    Args:
        opt: checked options with a ``train`` section.
        run: place of this process.
        profile: iterations to record a trace of.

    Returns:
        The run's folder, ``experiments/NAME``.

    Raises:
        PreemptedError: a signal asked to stop; the state is saved.
        UpsrError: a mistake that the user can correct, see :mod:`upsr.errors`.
    """
    folder = Path(opt.path.experiments_root) / opt.name
    resuming = run.any(opt.auto_resume or was_restarted(folder))
    with StopSignal() as stop:
        if run.is_main:
            writable_folder(folder.parent)
            if not resuming:
                set_aside(folder, opt)
            writable_folder(folder)
        run.barrier()
        setup_logging(run, folder / "train.log")
        configure_backends(run.device)
        with Heartbeat(
            run, folder, interval=opt.distributed.heartbeat, total=train_options(opt).total_iter
        ) as heartbeat:
            trainer = Trainer(opt, run, folder, own=resuming)
            trainer.resume()
            trainer.fit(stop, heartbeat, profile)
    return folder


def _going_on(opt: CommonOptions, state: str | Path | None) -> CommonOptions:
    """Options that name the training state of their own run too."""
    path = opt.path.model_copy(update={"resume_state": state and str(state)})
    return opt.model_copy(update={"path": path})


class Trainer:
    """One training run: its parts, and the loop over them.

    Args:
        own: continue from the newest valid checkpoint of this run if it has one; ``path.resume_state`` is for the first start.

    Attributes:
        state: the training state that it continues from; ``None`` for a run that begins.
        sampler: the batches from where the run begins; made by :meth:`resume`.
    """

    sampler: GlobalBatchSampler

    def __init__(self, opt: CommonOptions, run: Runtime, folder: Path, *, own: bool = False) -> None:
        self.opt, self.run, self.folder, self.own = opt, run, folder, own
        newest = newest_own(CheckpointStore(folder)) if own and run.is_main else None
        self.state = run.from_main(newest) or opt.path.resume_state
        self.settings = train_options(opt)
        self.seed = opt.manual_seed
        self.iteration = 0
        self.training = build_training(_going_on(opt, self.state)).to(run.device).train()
        self.step = TrainingStep(self.training, self.settings, run, seed=self.seed, bucket_mb=opt.distributed.bucket_mb)
        self.data = TrainingData(opt, run, self.training)
        self.validation = Validation(opt, run, folder, self.training.method)
        self.store = CheckpointStore(
            folder,
            players=self.step.updaters,
            keep_last=opt.logger.keep_last,
            weight_formats=opt.logger.weight_formats,
        )
        self.saver = saver = Saver(self.store, run.device, beside=opt.logger.save_beside)
        for updater in self.step.updaters.values():
            # Without self, so that nothing refers in a circle: loader processes end when the trainer is let go.
            updater.optimizer.register_step_pre_hook(lambda *_: saver.copied())
        self.guard = NonFiniteGuard(self.settings.guard, folder, run)
        self.saved_at = -1
        self._data_error: str | None = None

    def resume(self) -> None:
        """Continue from the training state, or begin; validations of a dead attempt after that state are dropped."""
        checkpoint = None if self.state is None else load_checkpoint(self.state)
        position = 0
        if checkpoint is not None:
            self.iteration, position = checkpoint.iteration, checkpoint.position
        self.sampler = GlobalBatchSampler(
            len(self.data.dataset),
            seed=self.seed,
            batch_size=self.data.options.batch_size_per_gpu,
            world_size=self.run.world_size,
            rank=self.run.rank,
            accumulate=self.settings.accumulate,
            start=self.iteration,
            stop=self.settings.total_iter,
            position=position,
        )
        if checkpoint is not None:
            self._take_over(checkpoint, str(self.state))
            self.saved_at = self.iteration if self.own else -1
        if self.run.is_main and self.validation.begin(self.iteration):
            self.store.remove_weights("best")

    def _take_over(self, checkpoint: Checkpoint, state: str) -> None:
        self.step.load(checkpoint.players, state)
        self.guard.load_state_dict(checkpoint.guard)
        left_out = self.data.feed.load_state_dict(checkpoint.pool, self.sampler.all_slots(), self.run.device)
        logger.info("resumed from %s at iteration %d, sample %d of the stream", state, self.iteration, self.position)
        if left_out:
            logger.warning(
                "left out %d pairs of the pool, of another size or more than it holds now; it fills again", left_out
            )
        for change in changes_since(checkpoint, self._made_by(), self.opt):
            logger.warning("changed since that state: %s", change)

    @property
    def position(self) -> int:
        """Samples of the stream that were consumed."""
        return self.sampler.position(self.iteration)

    def fit(self, stop: StopSignal, heartbeat: Heartbeat, profile: int | None = None) -> None:
        """Run the remaining iterations.

        Args:
            profile: iterations to record a trace of.

        Raises:
            PreemptedError: ``stop`` received a signal; the state is saved.
            DivergedError: too many steps in a row were not finite.
        """
        opt, total = self.opt, self.settings.total_iter
        self._announce()
        self.data.open(self.sampler)
        sinks = open_sinks(
            opt.logger,
            self.folder,
            name=opt.name,
            config=opt.model_dump(mode="json"),
            iteration=self.iteration,
            is_main=self.run.is_main,
        )
        if self.iteration and self._due(opt.val.val_freq) and self.validation.is_missing(self.iteration):
            self._validate(sinks, stop, heartbeat)
        tally = Tally(self.run)
        trace = self.folder / "profile" / f"trace_{self.iteration}.json"
        quiet = None if self.run.is_main else True
        with (
            tqdm(total=total, initial=self.iteration, desc=opt.name, unit="it", disable=quiet) as bar,
            profiled(trace, profile if self.run.is_main else None, self.run.device) as profiler,
            self.run.peers_answering(),
            self.saver,
        ):
            while self.iteration < total:
                heartbeat.beat(self.iteration, "training")
                decision = self._iterate(tally, stop)
                bar.update()
                profiler.step()
                if self._due(opt.logger.print_freq):
                    self._report(tally, sinks, bar)
                    heartbeat.reported()
                decided = decision()
                if decided != _GO_ON or self._due(opt.logger.save_checkpoint_freq):
                    heartbeat.beat(self.iteration, "saving")
                    self.save()
                if decided != _GO_ON:
                    self._give_up(decided, stop)
                if self._due(opt.val.val_freq):
                    self._validate(sinks, stop, heartbeat)
                    tally.restart_clock()
            self._finish_saving()
        sinks.close()
        if self.run.is_main:
            written = self.store.save_weights("latest", self._checkpoint({}))
            logger.info("finished; weights in %s", ", ".join(map(str, written)))

    def _iterate(self, tally: Tally, stop: StopSignal) -> Callable[[], int]:
        """One iteration; returns a function that waits for the decision of all processes how to go on."""
        waited = self.data.batches.waited
        updates, decision = self.step(
            self.iteration,
            self.data.micro_batches(self.iteration, self.sampler),
            meanwhile=lambda: self.run.vote(self._ballot(stop)),
        )
        bad = [(name, update) for name, update in updates.items() if update.outcome.problem]
        unexpected = [(name, update) for name, update in bad if not update.outcome.expected]
        if unexpected:
            name, update = unexpected[0]
            reason = self.step.labelled(name, str(update.outcome.problem))
            self.guard.failed(self.iteration, reason, self.seed, update.seen)
        elif not bad:
            self.guard.passed()
        for name, update in updates.items():
            if update.outcome.problem is None:
                losses = {self.step.labelled(name, loss): value for loss, value in update.losses.items()}
                tally.add(losses, {self.step.labelled(name, "grad_norm"): update.outcome.grad_norm})
        tally.iterated(self.data.batches.waited - waited)
        self.iteration += 1
        return decision

    def _due(self, every: int) -> bool:
        return self.iteration % every == 0 or self.iteration == self.settings.total_iter

    def _ballot(self, stop: StopSignal) -> int:
        """This process's vote, after it has fetched the next batch while the device is at work."""
        try:
            self.data.batches.prefetch()
        except UpsrError as error:
            self._data_error = str(error)
            return _NO_DATA
        return _STOP if stop.received else _GO_ON

    def _give_up(self, decision: int, stop: StopSignal) -> NoReturn:
        self._finish_saving()
        where = (
            f"at iteration {self.iteration} of {self.settings.total_iter}; the state is saved in {self.store.states}"
        )
        if decision == _NO_DATA:
            reason = self._data_error or "another process cannot read its data"
            raise UpsrError(f"{reason} ({where}; repair the data and resume with --auto-resume)")
        raise PreemptedError(f"{stop.received or 'a signal to another process'} {where}; --auto-resume continues")

    def save(self) -> None:
        """Begin to write a checkpoint, after the one before; processes other than the main one hand in their pool.

        A full disk is logged, and the run goes on: earlier checkpoints stay good, the next one may fit.
        """
        self._finish_saving()
        if self.saved_at == self.iteration:
            return
        pools = self.run.gather_to_main(self.data.feed.state_dict())
        if self.run.is_main:
            self.saver.begin(self._checkpoint({slot: pairs for part in pools for slot, pairs in part.items()}))
        self.saved_at = self.iteration

    def _finish_saving(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            UpsrError: it cannot be written, and was the last one of the run.
        """
        problem = self.run.from_main(self.saver.finish())
        if problem is None:
            return
        was_last, self.saved_at = self.saved_at == self.settings.total_iter, -1
        if was_last:
            raise UpsrError(f"{problem}; make room and resume with --auto-resume")

    def _checkpoint(self, pool: dict[int, dict[str, Any]]) -> Checkpoint:
        return Checkpoint(
            iteration=self.iteration,
            position=self.position,
            players={name: updater.state() for name, updater in self.step.updaters.items()},
            pool=pool,
            guard=self.guard.state_dict(),
            run=self._made_by(),
            options=self.opt.model_dump(mode="json"),
        )

    def _made_by(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "global_batch": self.sampler.global_batch,
            "world_size": self.run.world_size,
            "images": len(self.data.dataset),
            "images_digest": self.data.images_digest,
        }

    def _validate(self, sinks: Sinks, stop: StopSignal, heartbeat: Heartbeat) -> None:
        """Measure the averaged weights. A signal meanwhile ends it; the resumed run does it again."""

        def stopping() -> bool:
            heartbeat.beat(self.iteration, "validation")
            return stop.received is not None

        with self.step.averaged_weights(), evaluation_mode(self.training):
            values = self.validation(self.training.method, self.iteration, sinks, stopping)
        if values is None:
            self.save()
            self._give_up(_STOP, stop)
        self._finish_saving()  # what is best is not on record before the checkpoint it belongs to
        if self.run.is_main and self.validation.record(values, self.iteration):
            written = self.store.save_weights("best", self._checkpoint({}))
            logger.info("the best %s so far; weights in %s", self.validation.best.tag, ", ".join(map(str, written)))

    def _report(self, tally: Tally, sinks: Sinks, bar: Any) -> None:
        values, single = tally.report(self.sampler.global_batch)
        values["skipped_steps"] = float(self.guard.skipped)
        rates = []
        for name, updater in self.step.updaters.items():
            rate, norm = (self.step.labelled(name, number) for number in ("lr", "grad_norm"))
            values[rate] = updater.rate
            rates.append(f"{rate} {values[rate]:.3e}, {norm.replace('_', ' ')} {values.get(norm, math.nan):.3g}")
            if updater.scaler.is_enabled():
                values[self.step.labelled(name, "loss_scale")] = updater.scaler.get_scale()
        losses = {k.removeprefix("losses/"): v for k, v in values.items() if k.startswith("losses/") and "=" not in k}
        left = datetime.timedelta(seconds=round(values["s_per_iter"] * (self.settings.total_iter - self.iteration)))
        logger.info(
            "iteration %d: %s, %s, %.3f s/it, %.1f images/s, data wait %.1f %%, %.2f GiB, skipped %d, eta %s",
            self.iteration, ", ".join(f"{name} {value:.4e}" for name, value in losses.items()), ", ".join(rates),
            values["s_per_iter"], values["images_per_s"], 100 * values["data_wait_share"], values["memory_gib"],
            self.guard.skipped, left,
        )  # fmt: skip
        sinks.scalars(values, self.iteration)
        for tag, numbers in single.items():
            sinks.histogram(tag, numbers, self.iteration)
        bar.set_postfix({name: f"{value:.3e}" for name, value in losses.items() if name.endswith("total")})
        self.data.list_unreadable(self.folder / "unreadable.txt")

    def _announce(self) -> None:
        if self.run.is_main:
            with atomic_write(self.folder / RUN_OPTIONS) as path:
                path.write_text(dump_yaml(self.opt.model_dump(mode="json")), encoding="utf-8")
            self._warn_of_little_space()
        trained = [
            f"{type(updater.network).__name__} with {sum(p.numel() for p in updater.parameters.values()):,} parameters"
            for updater in self.step.updaters.values()
        ]
        logger.info(
            "%s: %s on %s, %d process(es), global batch %d, %d images, seed %d",
            self.opt.name, ", ".join(trained), self.run.device, self.run.world_size, self.sampler.global_batch,
            len(self.data.dataset), self.seed,
        )  # fmt: skip

    def _warn_of_little_space(self) -> None:
        """Weights, average and two moments of each trained parameter, and the weights for use."""
        trained = (p for updater in self.step.updaters.values() for p in updater.parameters.values())
        needed = 5 * sum(p.numel() * p.element_size() for p in trained)
        free = shutil.disk_usage(self.folder).free
        if free < 2 * needed:
            logger.warning(
                "%s: %.1f GiB are free, and a checkpoint takes about %.1f GiB; make room, or set logger.keep_last",
                self.folder, free / 2**30, needed / 2**30,
            )  # fmt: skip
