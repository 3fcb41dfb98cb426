"""The training loop of every stage and model."""

from __future__ import annotations

import contextlib
import datetime
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from upsr.archs.weights import misfits
from upsr.atomic import atomic_write, writable_folder
from upsr.config.difference import option_differences
from upsr.config.schema import Options, TrainOptions
from upsr.config.yaml_text import dump_yaml
from upsr.data import GlobalBatchSampler
from upsr.engine.checkpoint import Checkpoint, CheckpointStore, load_checkpoint
from upsr.engine.distributed import Runtime, job_id, restarts
from upsr.engine.evaluate import evaluation_mode
from upsr.engine.feed import PairFeed
from upsr.engine.guards import NonFiniteGuard
from upsr.engine.heartbeat import STATUS_FILE, Heartbeat, read_status
from upsr.engine.logging import setup_logging
from upsr.engine.preemption import StopSignal
from upsr.engine.profiling import profiled
from upsr.engine.setup import configure_backends, names_a_file
from upsr.engine.sinks import Sinks, open_sinks
from upsr.engine.tally import Tally
from upsr.engine.updater import Updater
from upsr.engine.validation import Validation
from upsr.errors import PreemptedError, UpsrError
from upsr.methods import Training, build_training
from upsr.methods.build import autocast_dtype, weight_files
from upsr.rng import derive_seed, torch_generator

logger = logging.getLogger(__name__)

_GO_ON, _STOP, _NO_DATA = range(3)
"""Ballots of the vote at the end of an iteration; the largest decides."""

_LEFT_BY_A_FAILED_START = ("train.log", STATUS_FILE)


def train(opt: Options, run: Runtime, *, profile: int | None = None) -> Path:
    """Train ``network_g`` as the options say.

    Args:
        opt: checked options with a ``train`` section.
        run: place of this process.
        profile: iterations to record a trace of.

    Returns:
        The run's folder, ``experiments/NAME``.

    Raises:
        PreemptedError: a signal asked to stop; the state is saved.
        UpsrError: something the user can mend; :mod:`upsr.errors` says which.
    """
    folder = Path(opt.path.experiments_root) / opt.name
    resuming = run.any(opt.auto_resume or _was_restarted(folder))
    with StopSignal() as stop:
        if run.is_main:
            writable_folder(folder.parent)
            if not resuming:
                _set_aside(folder, opt)
            writable_folder(folder)
        run.barrier()
        setup_logging(run, folder / "train.log")
        configure_backends(run.device)
        with Heartbeat(run, folder, interval=opt.distributed.heartbeat, total=_settings(opt).total_iter) as heartbeat:
            trainer = Trainer(opt, run, folder)
            trainer.resume(own=resuming)
            trainer.fit(stop, heartbeat, profile)
    return folder


def _settings(opt: Options) -> TrainOptions:
    if opt.train is None:
        raise UpsrError("train: this section is needed for training")
    return opt.train


def _was_restarted(folder: Path) -> bool:
    """Whether the folder's run is this very job, which torchrun or Slurm has started again."""
    job = job_id()
    return restarts() > 0 or (job is not None and read_status(folder).get("job") == job)


def _set_aside(folder: Path, opt: Options) -> None:
    """Rename the folder of an earlier run of this name, so that a new one neither writes over it nor takes its files for own.

    What a start that failed has left, its log and status, stays.

    Raises:
        UpsrError: the new run reads something that lies there.
    """
    if not folder.is_dir() or all(entry.name in _LEFT_BY_A_FAILED_START for entry in folder.iterdir()):
        return
    for key, path in _read_by(opt).items():
        if folder.resolve() in path.resolve().parents:
            raise UpsrError(
                f"{key}: {path} lies in the folder that a new run named '{opt.name}' sets aside; give the run another name, or "
                "continue the earlier one with --auto_resume"
            )
    folder.rename(folder.with_name(f"{folder.name}_archived_{datetime.datetime.now():%Y%m%d_%H%M%S_%f}"))


def _read_by(opt: Options) -> dict[str, Path]:
    """Files and folders that a run reads, by key."""
    found = weight_files(opt)
    if opt.path.resume_state is not None:
        found["path.resume_state"] = Path(opt.path.resume_state)
    for phase, dataset in opt.datasets.items():
        paths = {key: value for key, value in dataset.arguments.items() if names_a_file(key) and isinstance(value, str)}
        found |= {f"datasets.{phase}.{key}": Path(value) for key, value in paths.items() if "://" not in value}
    return found


class Trainer:
    """One training run: its parts, and the loop over them."""

    def __init__(self, opt: Options, run: Runtime, folder: Path) -> None:
        self.opt, self.run, self.folder = opt, run, folder
        self.settings = _settings(opt)
        self.seed = opt.manual_seed
        self.iteration = 0
        self.position = 0

        # The network's initial weights are a function of the run's seed.
        self.training: Training = build_training(opt).to(run.device).train()
        self.network: nn.Module = self.training.players["g"].network
        _lay_out(self.training, self.settings)
        self.updater = Updater(self.network, self.settings, run)  # its copy of the network has the same layout
        if self.settings.compile != "none":
            self.network.compile(mode=self.settings.compile)
        self.parallel: nn.Module = self.training
        if run.world_size > 1:
            self.parallel = DistributedDataParallel(
                self.training,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                bucket_cap_mb=opt.distributed.bucket_mb,
                # With no_sync the first iterations differ from the later ones.
                static_graph=self.settings.accumulate == 1,
            )

        self.feed = PairFeed(opt, run, self.training)
        self.validation = Validation(opt, run, folder, self.training.method)
        self.store = CheckpointStore(folder, keep_last=opt.logger.keep_last, weight_formats=opt.logger.weight_formats)
        self.guard = NonFiniteGuard(self.settings.guard, folder, run)
        self.saved_at = -1
        self._data_error: str | None = None

    def resume(self, *, own: bool) -> None:
        """Continue from a training state, or start anew; what a dead attempt validated since is forgotten.

        Args:
            own: look for the newest valid checkpoint of this run first; ``path.resume_state`` is for the first start.
        """
        state = self.run.from_main(self._newest_own() if own else None) or self.opt.path.resume_state
        if state is not None:
            self._take_over(Path(state), own)
        if self.run.is_main and self.validation.begin(self.iteration):
            self.store.remove_weights("best")

    def _take_over(self, state: Path, own: bool) -> None:
        checkpoint = load_checkpoint(state)
        for name, own_weights, weights in (
            ("params", self.network, checkpoint.params),
            ("params_ema", self.updater.average.module, checkpoint.params_ema),
        ):
            if faults := misfits(own_weights.state_dict(), weights):
                raise UpsrError(
                    f"{state}: the state is of another network; {name} has {'; '.join(faults)}. Restore the network's options, "
                    "or start a new run from its weights: path.pretrain_network_g"
                )
            own_weights.load_state_dict(dict(weights))
        try:
            self.updater.optimizer.load_state_dict(dict(checkpoint.optimizer))
        except (KeyError, ValueError) as error:
            raise UpsrError(f"{state}: the optimiser's state does not fit ({error}); restore train.optim_g") from None
        if checkpoint.scaler and self.updater.scaler.is_enabled():
            self.updater.scaler.load_state_dict(dict(checkpoint.scaler))
        self.guard.load_state_dict(checkpoint.guard)
        self.iteration, self.position = checkpoint.iteration, checkpoint.position
        left_out = self.feed.load_pool(checkpoint.pool, self._sampler().all_slots())
        self.saved_at = self.iteration if own else -1
        logger.info("resumed from %s at iteration %d, sample %d of the stream", state, self.iteration, self.position)
        if left_out:
            logger.warning(
                "left out %d pairs of the pool, of another size or more than it holds now; it fills anew", left_out
            )
        for change in self._changes(checkpoint):
            logger.warning("changed since that state: %s", change)

    def _newest_own(self) -> Path | None:
        """The newest valid checkpoint, on the main process."""
        if not self.run.is_main:
            return None
        self.store.sweep()
        state = self.store.newest_valid()
        if state is None and self.store.iterations():
            raise UpsrError(
                f"{self.store.states}: none of the {len(self.store.iterations())} checkpoints is whole; remove them to start anew"
            )
        return state

    def _changes(self, checkpoint: Checkpoint) -> Iterator[str]:
        """What is not as it was when the checkpoint was made."""
        before, now = checkpoint.run, self._made_by()
        for name in ("seed", "global_batch", "world_size"):
            if before[name] != now[name]:
                yield f"{name.replace('_', ' ')} {before[name]} -> {now[name]}"
        if before["global_batch"] != now["global_batch"]:
            yield f"the stream of samples goes on at sample {self.position}, in other batches"
        # States of earlier versions do not say which images they came from.
        if before.get("images_digest", now["images_digest"]) != now["images_digest"]:
            yield (
                f"datasets.train: other images, {before['images']} -> {now['images']}; the stream of samples is another from "
                "here on, so the run is no longer what one without the stop would have been"
            )
        for change in option_differences(checkpoint.options, self.opt.model_dump(mode="json")):
            if not change.startswith(("auto_resume:", "path.resume_state:")):
                yield change

    def fit(self, stop: StopSignal, heartbeat: Heartbeat, profile: int | None = None) -> None:
        """Run the remaining iterations.

        Args:
            profile: iterations to record a trace of.

        Raises:
            PreemptedError: ``stop`` received a signal; the state is saved.
            DivergedError: too many steps in a row were not finite.
        """
        opt, total = self.opt, self.settings.total_iter
        sampler = self._sampler()
        self._announce(sampler)
        self.feed.open(sampler)
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
        ):
            while self.iteration < total:
                heartbeat.beat(self.iteration, "training")
                decision = self._iterate(sampler, tally, stop)
                self.position = sampler.position(self.iteration)
                bar.update()
                profiler.step()
                if self._due(opt.logger.print_freq):
                    self._report(tally, sinks, bar, sampler.global_batch)
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
        sinks.close()
        if self.run.is_main:
            written = self.store.save_weights("latest", self._checkpoint({}))
            logger.info("finished; weights in %s", ", ".join(map(str, written)))

    def _iterate(self, sampler: GlobalBatchSampler, tally: Tally, stop: StopSignal) -> Callable[[], int]:
        """One iteration; returns what tells how the processes decided to go on."""
        waited = self.feed.batches.waited
        losses, inputs = self._losses_and_gradients(sampler)
        decision = self.run.vote(self._ballot(stop))
        outcome = self.updater.step(self.iteration, losses["total"])
        good = outcome.problem is None
        if good:
            self.guard.passed()
        elif not outcome.expected:
            self.guard.failed(self.iteration, str(outcome.problem), self.seed, inputs)
        tally.add(losses, good=good, grad_norm=outcome.grad_norm, waited=self.feed.batches.waited - waited)
        self.iteration += 1
        return decision

    def _due(self, every: int) -> bool:
        return self.iteration % every == 0 or self.iteration == self.settings.total_iter

    def _losses_and_gradients(self, sampler: GlobalBatchSampler) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Forward and backward passes of one iteration.

        Returns:
            The mean losses of this process, detached, and what went in, for the guard.
        """
        keys = (self.seed, "train", self.iteration)
        # Dropout, where a network has it, is the one draw that takes no generator.
        torch.manual_seed(derive_seed(*keys, "rank", self.run.rank))
        totals: dict[str, Tensor] = {}
        inputs = []
        for micro in range(sampler.accumulate):
            slots = sampler.slots(micro)
            lq, gt, names = self.feed.pairs(self.iteration, slots)
            generators = [torch_generator(*keys, "slot", slot, device=self.run.device) for slot in slots]
            with self._synchronised_only_if(micro + 1 == sampler.accumulate), self._autocast():
                losses = self.parallel("g", {"lq": lq, "gt": gt}, generators)
            with self._synchronised_only_if(micro + 1 == sampler.accumulate):
                self.updater.backward(losses["total"] / sampler.accumulate)
            detached = {name: value.detach() for name, value in losses.items()}
            for name, value in detached.items():
                share = value if value.dim() else value / sampler.accumulate  # tables are sums already
                totals[name] = totals[name] + share if name in totals else share
            inputs.append({"lq": lq, "gt": gt, "files": names, "slots": list(slots), "losses": detached})
        return totals, inputs

    def _ballot(self, stop: StopSignal) -> int:
        """This process's vote, after it has fetched the next batch while the device is at work."""
        try:
            self.feed.batches.prefetch()
        except UpsrError as error:
            self._data_error = str(error)
            return _NO_DATA
        return _STOP if stop.received else _GO_ON

    def _give_up(self, decision: int, stop: StopSignal) -> None:
        where = (
            f"at iteration {self.iteration} of {self.settings.total_iter}; the state is saved in {self.store.states}"
        )
        if decision == _NO_DATA:
            reason = self._data_error or "another process cannot read its data"
            raise UpsrError(f"{reason} ({where}; mend the data and resume with --auto_resume)")
        raise PreemptedError(f"{stop.received or 'a signal to another process'} {where}; --auto_resume continues")

    def save(self) -> None:
        """Write a checkpoint; processes other than the main one hand in their pool.

        A disk that is full is told, and the run goes on: the checkpoints before stay good, the next one may fit.

        Raises:
            UpsrError: it was the last checkpoint of the run.
        """
        if self.saved_at == self.iteration:
            return
        pools = self.run.gather_to_main(self.feed.pool.state_dict())
        problem = None
        if self.run.is_main:
            pool = {slot: pairs for part in pools for slot, pairs in part.items()}
            try:
                logger.info("saved %s", self.store.save(self._checkpoint(pool)))
            except UpsrError as error:
                problem = str(error)
                logger.error(
                    "iteration %d was not saved: %s; earlier checkpoints are untouched", self.iteration, problem
                )
        problem = self.run.from_main(problem)
        if problem is None:
            self.saved_at = self.iteration
        elif self.iteration == self.settings.total_iter:
            raise UpsrError(f"{problem}; make room and resume with --auto_resume")

    def _checkpoint(self, pool: dict[int, dict[str, Any]]) -> Checkpoint:
        return Checkpoint(
            iteration=self.iteration,
            position=self.position,
            params=self.network.state_dict(),
            params_ema=self.updater.average.module.state_dict(),
            optimizer=self.updater.optimizer.state_dict(),
            scaler=self.updater.scaler.state_dict(),
            pool=pool,
            guard=self.guard.state_dict(),
            run=self._made_by(),
            options=self.opt.model_dump(mode="json"),
        )

    def _made_by(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "global_batch": self._sampler().global_batch,
            "world_size": self.run.world_size,
            "images": len(self.feed.dataset),
            "images_digest": self.feed.images_digest,
        }

    def _validate(self, sinks: Sinks, stop: StopSignal, heartbeat: Heartbeat) -> None:
        """Measure the averaged weights. A signal meanwhile ends it; the resumed run does it again."""

        def stopping() -> bool:
            heartbeat.beat(self.iteration, "validation")
            return stop.received is not None

        with self._averaged_weights(), evaluation_mode(self.training):
            values = self.validation(self.training.method, self.iteration, sinks, stopping)
        if values is None:
            self.save()
            self._give_up(_STOP, stop)
        elif self.run.is_main and self.validation.record(values, self.iteration):
            written = self.store.save_weights("best", self._checkpoint({}))
            logger.info("the best %s so far; weights in %s", self.validation.best.tag, ", ".join(map(str, written)))

    def _sampler(self) -> GlobalBatchSampler:
        """The batches from where the run stands."""
        return GlobalBatchSampler(
            len(self.feed.dataset),
            seed=self.seed,
            batch_size=self.feed.options.batch_size_per_gpu,
            world_size=self.run.world_size,
            rank=self.run.rank,
            accumulate=self.settings.accumulate,
            start=self.iteration,
            stop=self.settings.total_iter,
            position=self.position,
        )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = autocast_dtype(self.settings.amp)
        return torch.autocast(self.run.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    def _synchronised_only_if(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of all but the last micro-batch stay on this process."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.parallel.no_sync()

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        pairs = zip(self.network.parameters(), self.updater.average.module.parameters(), strict=True)
        for own, averaged in pairs:
            own.data, averaged.data = averaged.data, own.data

    def _report(self, tally: Tally, sinks: Sinks, bar: Any, global_batch: int) -> None:
        values = tally.report(global_batch)
        values |= {"lr": self.updater.rate, "skipped_steps": float(self.guard.skipped)}
        if self.updater.scaler.is_enabled():
            values["loss_scale"] = self.updater.scaler.get_scale()
        losses = {k.removeprefix("losses/"): v for k, v in values.items() if k.startswith("losses/") and "=" not in k}
        left = datetime.timedelta(seconds=round(values["s_per_iter"] * (self.settings.total_iter - self.iteration)))
        logger.info(
            "iteration %d: %s, lr %.3e, grad norm %.3g, %.3f s/it, %.1f images/s, data wait %.1f %%, %.2f GiB, "
            "skipped %d, eta %s",
            self.iteration, ", ".join(f"{name} {value:.4e}" for name, value in losses.items()), values["lr"],
            values.get("grad_norm", float("nan")), values["s_per_iter"], values["images_per_s"],
            100 * values["data_wait_share"], values["memory_gib"], self.guard.skipped, left,
        )  # fmt: skip
        sinks.scalars(values, self.iteration)
        bar.set_postfix({name: f"{value:.3e}" for name, value in losses.items() if name == "total"})
        self.feed.list_unreadable(self.folder / "unreadable.txt")

    def _announce(self, sampler: GlobalBatchSampler) -> None:
        if self.run.is_main:
            with atomic_write(self.folder / "options.yml") as path:
                path.write_text(dump_yaml(self.opt.model_dump(mode="json")), encoding="utf-8")
            self._warn_of_little_space()
        trained = sum(p.numel() for p in self.network.parameters())
        logger.info(
            "%s: %s with %s parameters on %s, %d process(es), global batch %d, %d images, seed %d",
            self.opt.name, type(self.network).__name__, f"{trained:,}", self.run.device, self.run.world_size,
            sampler.global_batch, len(self.feed.dataset), self.seed,
        )  # fmt: skip

    def _warn_of_little_space(self) -> None:
        """Weights, average and two moments of each parameter, and the weights for use."""
        needed = 5 * sum(p.numel() * p.element_size() for p in self.network.parameters())
        free = shutil.disk_usage(self.folder).free
        if free < 2 * needed:
            logger.warning(
                "%s: %.1f GiB are free, and a checkpoint takes about %.1f GiB; make room, or set logger.keep_last",
                self.folder, free / 2**30, needed / 2**30,
            )  # fmt: skip


def _lay_out(training: Training, settings: TrainOptions) -> None:
    """Options that change how much memory the trained network takes and how it lies there, not what it computes."""
    network = training.players["g"].network
    if settings.activation_checkpointing:
        if not hasattr(network, "activation_checkpointing"):
            raise UpsrError(f"train.activation_checkpointing: {type(network).__name__} has none; set it to false")
        network.activation_checkpointing = True  # type: ignore[assignment]
    if settings.channels_last:
        for part in (network, getattr(training, "losses", None)):  # not g: a transformer gains nothing
            if part is not None:
                part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
