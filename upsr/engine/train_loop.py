"""The training loop of every stage and model."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from upsr.atomic import atomic_write, writable_folder
from upsr.compat import DATASET_REGISTRY
from upsr.config.components import build
from upsr.config.schema import OptimizerOptions, Options, TrainOptions
from upsr.data import GlobalBatchSampler, PairPool, RealESRGANDegradation, batches_of, build_train_loader
from upsr.engine.checkpoint import Checkpoint, load_checkpoint, newest_state, save_checkpoint, save_network
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import ValidationSet, build_metrics, build_validation_set, evaluate, save_image
from upsr.engine.logging import Board, setup_logging
from upsr.engine.setup import configure_backends
from upsr.errors import UpsrError
from upsr.metrics import Metric
from upsr.models import RestorationModel, build_model
from upsr.rng import derive_seed, torch_generator

logger = logging.getLogger(__name__)

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(opt: Options, run: Runtime, *, auto_resume: bool = False) -> Path:
    """Train ``network_g`` as the options say.

    Args:
        opt: checked options with a ``train`` section.
        run: place of this process.
        auto_resume: continue from the newest state in the run's folder, if there is one.

    Returns:
        The run's folder, ``experiments/NAME``.
    """
    folder = writable_folder(Path(opt.path.experiments_root) / opt.name)
    setup_logging(run, folder / "train.log")
    configure_backends(run.device)
    trainer = Trainer(opt, run, folder)
    trainer.resume(opt.path.resume_state or (newest_state(folder) if auto_resume else None))
    trainer.fit()
    return folder


class Trainer:
    """One training run: its parts, and the loop over them."""

    def __init__(self, opt: Options, run: Runtime, folder: Path) -> None:
        if opt.train is None:
            raise UpsrError("train: this section is needed for training")
        self.opt, self.run, self.folder = opt, run, folder
        self.settings: TrainOptions = opt.train
        self.seed = opt.manual_seed
        self.iteration = 0

        # The network's initial weights are a function of the run's seed.
        torch.manual_seed(derive_seed(self.seed, "init"))
        self.model: RestorationModel = build_model(opt, "train").to(run.device).train()
        self.network: nn.Module = self.model.network_g
        self.ema = _average_of(self.network, self.settings.ema_decay)
        self.optimizer = _build_optimizer(self.network, self.settings.optim_g)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=self.settings.amp == "fp16")
        self.parallel: nn.Module = self.model
        if run.world_size > 1:
            self.parallel = DistributedDataParallel(self.model, broadcast_buffers=False)

        self.degradation = RealESRGANDegradation(opt.degradation, opt.scale)
        self.pool = PairPool(opt.pair_pool.pairs_per_slot)
        self.data = opt.datasets["train"]
        self.dataset = build(DATASET_REGISTRY, self.data)
        if not hasattr(self.dataset, "bind"):
            raise UpsrError(f"datasets.train.type: {self.data.type} is no training set; use RealESRGANDataset")
        self.dataset.bind(self.seed, opt.degradation)
        self._check_data()
        self.validation = [
            build_validation_set(phase, options, opt.val.max_images) for phase, options in opt.validation_sets.items()
        ]
        self.metrics: dict[str, Metric] = build_metrics(opt, run.device)
        self.unreadable: set[str] = set()

    def resume(self, state: str | Path | None) -> None:
        """Continue from a training state, or start anew for ``None``."""
        sampler = self._sampler()
        if state is None:
            return
        checkpoint = load_checkpoint(state)
        made_by = checkpoint.run
        if made_by["seed"] != self.seed or made_by["global_batch"] != sampler.global_batch:
            logger.warning(
                "%s was made with seed %d and a global batch of %d; now they are %d and %d: the run goes on with other samples",
                state, made_by["seed"], made_by["global_batch"], self.seed, sampler.global_batch,
            )  # fmt: skip
        elif made_by["world_size"] != self.run.world_size:
            logger.info("resuming on %d processes instead of %d", self.run.world_size, made_by["world_size"])
        try:
            self.network.load_state_dict(checkpoint.params)
            self.ema.module.load_state_dict(checkpoint.params_ema)
            self.optimizer.load_state_dict(dict(checkpoint.optimizer))
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()
            raise UpsrError(f"{state}: the state is of another network or optimiser ({' '.join(reason[:2])})") from None
        self.scaler.load_state_dict(dict(checkpoint.scaler))
        self.pool.load_state_dict(checkpoint.pool, sampler.all_slots())
        self.iteration = checkpoint.iteration
        logger.info("resumed from %s at iteration %d", state, self.iteration)

    def fit(self) -> None:
        """Run the remaining iterations."""
        opt, total = self.opt, self.settings.total_iter
        sampler = self._sampler(start=self.iteration)
        self._announce(sampler)
        loader = build_train_loader(
            self.dataset, sampler, num_workers=self.data.num_worker_per_gpu, pin_memory=self.run.device.type == "cuda"
        )
        board = Board(
            self.folder / "tb_logger", opt.logger.use_tb_logger and self.run.is_main, purge_step=self.iteration + 1
        )
        batches = batches_of(loader)
        started, since = time.perf_counter(), self.iteration
        sums: dict[str, Tensor] = {}
        with tqdm(
            total=total, initial=self.iteration, desc=opt.name, unit="it", disable=None if self.run.is_main else True
        ) as bar:
            while self.iteration < total:
                losses = self.step([next(batches) for _ in range(sampler.accumulate)], sampler)
                bar.update()
                sums = {name: sums.get(name, 0) + value for name, value in losses.items()}
                if self.iteration % opt.logger.print_freq == 0 or self.iteration == total:
                    count = self.iteration - since
                    means = self._mean_over_processes({name: value / count for name, value in sums.items()})
                    seconds = (time.perf_counter() - started) / count
                    self._report(means, seconds, board, bar)
                    sums, started, since = {}, time.perf_counter(), self.iteration
                if self.iteration % opt.logger.save_checkpoint_freq == 0 or self.iteration == total:
                    self.save()
                if self.iteration % opt.val.val_freq == 0 or self.iteration == total:
                    self.validate(board)
        board.close()
        if self.run.is_main:
            save_network(self.folder / "models" / "net_g_latest.pth", *self._weights())
            logger.info("finished; weights in %s", self.folder / "models" / "net_g_latest.pth")

    def step(self, micro_batches: list[dict[str, Any]], sampler: GlobalBatchSampler) -> dict[str, Tensor]:
        """One optimiser step; returns the mean losses of this process, detached."""
        keys = (self.seed, "train", self.iteration)
        # Dropout, where a network has it, is the one draw that takes no generator.
        torch.manual_seed(derive_seed(*keys, "rank", self.run.rank))
        totals: dict[str, Tensor] = {}
        for micro, batch in enumerate(micro_batches):
            slots = sampler.slots(micro)
            lq, gt = self.pairs(batch, slots)
            generators = [torch_generator(*keys, "slot", slot, device=self.run.device) for slot in slots]
            with self._synchronised_only_if(micro + 1 == len(micro_batches)), self._autocast():
                losses = self.parallel(lq, gt, generators)
                share = losses["total"] / len(micro_batches)
                self.scaler.scale(share).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / len(micro_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.optim_g.lr * self._rate_factor(self.iteration)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update_parameters(self.network)
        self.iteration += 1
        return totals

    def pairs(self, batch: dict[str, Any], slots: range) -> tuple[Tensor, Tensor]:
        """Degraded and pooled (lq, gt) of a micro-batch, on the device, in [0, 1]."""
        self._warn_of_unreadable(batch["unreadable"])
        keys = (self.seed, "train", self.iteration)
        device = self.run.device
        gt, kernel1, kernel2, sinc_kernel = (
            batch[name].to(device, non_blocking=True) for name in ("gt", "kernel1", "kernel2", "sinc_kernel")
        )
        lq = self.degradation(gt, kernel1, kernel2, sinc_kernel, slots=slots, keys=keys)
        return self.pool.exchange(lq, gt, slots=slots, keys=keys)

    def save(self) -> None:
        """Write a checkpoint; processes other than the main one hand in their pool."""
        pools = self.run.gather(self.pool.state_dict())
        if not self.run.is_main:
            return
        params, params_ema = self._weights()
        checkpoint = Checkpoint(
            iteration=self.iteration,
            params=params,
            params_ema=params_ema,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            pool={slot: pairs for pool in pools for slot, pairs in pool.items()},
            run={
                "seed": self.seed,
                "global_batch": self._sampler().global_batch,
                "world_size": self.run.world_size,
            },
        )
        logger.info("saved %s", save_checkpoint(checkpoint, self.folder))

    def validate(self, board: Board) -> None:
        """Measure the averaged weights on every validation set."""
        for data in self.validation:
            with self._averaged_weights():
                result = evaluate(
                    self.model,
                    data,
                    self.metrics,
                    self.run,
                    seed=self.seed,
                    tile=self.opt.val.tile,
                    on_image=lambda key, image, data=data: self._show(data, key, image, board),  # type: ignore[misc]
                )
            logger.info("iteration %d, %s", self.iteration, result)
            board.scalars({f"{data.name}/{name}": value for name, value in result.means.items()}, self.iteration)

    def _show(self, data: ValidationSet, key: str, image: Tensor, board: Board) -> None:
        if self.opt.val.save_img:
            # The set's name keeps images apart that have one name in two sets.
            save_image(self.folder / "visualization" / data.name / key, str(self.iteration), image)
        board.picture(f"{data.name}/{key}", image, self.iteration)

    def _sampler(self, start: int = 0) -> GlobalBatchSampler:
        return GlobalBatchSampler(
            len(self.dataset),
            seed=self.seed,
            batch_size=self.data.batch_size_per_gpu,
            world_size=self.run.world_size,
            rank=self.run.rank,
            accumulate=self.settings.accumulate,
            start=start,
            stop=self.settings.total_iter,
        )

    def _rate_factor(self, iteration: int) -> float:
        """Of the learning rate, for the step after ``iteration`` finished ones: warm-up, then milestones.

        A function of the iteration alone, so there is no scheduler whose state could be lost.
        """
        schedule = self.settings.scheduler
        warmup = min(1.0, (iteration + 1) / self.settings.warmup_iter) if self.settings.warmup_iter else 1.0
        return warmup * schedule.gamma ** sum(iteration + 1 > milestone for milestone in schedule.milestones)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.settings.amp)
        return torch.autocast(self.run.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    def _synchronised_only_if(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of all but the last micro-batch stay on this process."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.parallel.no_sync()

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        self.model.network_g = self.ema.module
        try:
            yield
        finally:
            self.model.network_g = self.network

    def _weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.network.state_dict(), self.ema.module.state_dict()

    def _mean_over_processes(self, values: dict[str, Tensor]) -> dict[str, float]:
        numbers = {name: float(value) for name, value in values.items()}
        gathered = self.run.gather(numbers)
        return {name: sum(part[name] for part in gathered) / len(gathered) for name in numbers}

    def _report(self, means: dict[str, float], seconds: float, board: Board, bar: Any) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        text = ", ".join(f"{name} {value:.4e}" for name, value in means.items())
        logger.info("iteration %d: %s, lr %.3e, %.3f s/it", self.iteration, text, rate, seconds)
        board.scalars(
            {**{f"losses/{k}": v for k, v in means.items()}, "lr": rate, "s_per_iter": seconds}, self.iteration
        )
        bar.set_postfix(total=f"{means['total']:.3e}")

    def _announce(self, sampler: GlobalBatchSampler) -> None:
        if self.run.is_main:
            with atomic_write(self.folder / "options.yml") as path:
                path.write_text(yaml.safe_dump(self.opt.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        trained = sum(p.numel() for p in self.network.parameters())
        logger.info(
            "%s: %s with %s parameters on %s, %d process(es), global batch %d, %d images, seed %d",
            self.opt.name, type(self.network).__name__, f"{trained:,}", self.run.device, self.run.world_size,
            sampler.global_batch, len(self.dataset), self.seed,
        )  # fmt: skip

    def _warn_of_unreadable(self, messages: list[list[str]]) -> None:
        for message in {text for texts in messages for text in texts} - self.unreadable:
            self.unreadable.add(message)
            logger.warning("skipped, %d unreadable so far: %s", len(self.unreadable), message)

    def _check_data(self) -> None:
        size = getattr(self.dataset, "gt_size", None)
        multiple = self.model.size_multiple * self.opt.scale
        if size is not None and size % multiple:
            raise UpsrError(
                f"datasets.train.gt_size: {size} is no multiple of {multiple}, which the network needs at x{self.opt.scale}"
            )
        if self.dataset.folder.channels != self.model.channels:
            raise UpsrError(
                f"datasets.train.channels: {self.dataset.folder.channels}, but the network has {self.model.channels}"
            )


def _average_of(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the parameters, starting as a copy."""
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.update_parameters(network)  # the first update copies
    average.requires_grad_(False).eval()
    return average


def _build_optimizer(network: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    arguments = options.model_dump(exclude={"type"})
    return getattr(torch.optim, options.type)([p for p in network.parameters() if p.requires_grad], **arguments)
