"""Training pairs on the device: files, degradation, pool, for the slots of this process."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from upsr.atomic import atomic_write
from upsr.compat import DATASET_REGISTRY
from upsr.config.components import build
from upsr.config.schema import CommonOptions
from upsr.data import (
    DevicePrefetcher,
    GlobalBatchSampler,
    PairPool,
    RealESRGANDegradation,
    batches_of,
    build_train_loader,
)
from upsr.engine.distributed import Runtime
from upsr.errors import UpsrError
from upsr.methods.base import Training
from upsr.rng import derive_seed

logger = logging.getLogger(__name__)


class PairFeed:
    """What a training step reads.

    Args:
        training: which the data must fit.

    Raises:
        UpsrError: the set cannot be trained on, or does not fit the model.
    """

    def __init__(self, opt: CommonOptions, run: Runtime, training: Training) -> None:
        self.run = run
        self.seed = opt.manual_seed
        self.options = opt.datasets["train"]
        self.degradation = RealESRGANDegradation(opt.degradation, opt.scale)
        self.pool = PairPool(opt.pair_pool.pairs_per_slot)
        self.dataset = build(DATASET_REGISTRY, self.options)
        self.dataset.bind(self.seed, opt.degradation)
        self._check(training, opt.scale)
        self._unreadable: set[str] = set()
        self._batches: DevicePrefetcher | None = None

    @functools.cached_property
    def images_digest(self) -> int:
        """Of the names of all images, in their order: with it the stream of samples is another."""
        return derive_seed(*self.dataset.keys)

    def load_pool(self, state: Mapping[int, Mapping[str, Any]], slots: Sequence[int]) -> int:
        """Take over the pools of ``slots`` from a checkpoint; returns how many pairs do not fit this run and are left out."""
        side = self.dataset.gt_size
        shapes = [(self.dataset.channels, size, size) for size in (side // self.degradation.scale, side)]
        return self.pool.load_state_dict(state, slots, self.run.device, lq_shape=shapes[0], gt_shape=shapes[1])

    def open(self, sampler: GlobalBatchSampler) -> None:
        """Start to read the batches of ``sampler``."""
        loader = build_train_loader(
            self.dataset,
            sampler,
            num_workers=self.options.num_worker_per_gpu,
            pin_memory=self.run.device.type == "cuda",
        )
        self._batches = DevicePrefetcher(batches_of(loader), self.run.device)

    @property
    def batches(self) -> DevicePrefetcher:
        """The raw batches: ``gt`` (B, C, H, W) uint8 on the device, ``kernels``, ``key``, ``unreadable``."""
        if self._batches is None:
            raise RuntimeError("open() comes first")
        return self._batches

    def pairs(self, iteration: int, slots: range) -> tuple[Tensor, Tensor, list[str]]:
        """The next micro-batch: (lq, gt) in [0, 1] and the files they come from.

        Raises:
            UpsrError: the data cannot be read any more.
        """
        batch = self.batches.take()
        self._warn_of_unreadable(batch["unreadable"])
        return self.degraded(batch, iteration, slots)

    def degraded(self, batch: Mapping[str, Any], iteration: int, slots: range) -> tuple[Tensor, Tensor, list[str]]:
        """The pairs that a raw batch brings out of degradation and pool."""
        keys = (self.seed, "train", iteration)
        gt = batch["gt"].float() / 255
        stored = "lq" in batch
        lq = batch["lq"].float() / 255 if stored else self.degradation(gt, batch["kernels"], slots=slots, keys=keys)
        return self.pool.exchange(lq, gt, batch["key"], slots=slots, keys=keys)

    def list_unreadable(self, path: Path) -> None:
        """Write every file that any process has skipped, one a line; every process calls it."""
        lines = sorted({line for part in self.run.gather_to_main(self._unreadable) for line in part})
        if lines:
            with atomic_write(path) as temporary:
                temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _warn_of_unreadable(self, messages: list[list[str]]) -> None:
        for message in {text for texts in messages for text in texts} - self._unreadable:
            self._unreadable.add(message)
            logger.warning("skipped, %d unreadable so far: %s", len(self._unreadable), message)

    def _check(self, training: Training, scale: int) -> None:
        size = self.dataset.gt_size
        facts = training.method.facts
        multiple = facts.multiple * scale
        if size % multiple:
            raise UpsrError(
                f"datasets.train.gt_size: {size} is no multiple of {multiple}, which the network needs at x{scale}"
            )
        own_scale = getattr(self.dataset, "scale", scale)
        if own_scale != scale:
            raise UpsrError(f"datasets.train: its pairs are x{own_scale}, but scale is {scale}")
        if self.dataset.channels != facts.channels:
            raise UpsrError(f"datasets.train.channels: {self.dataset.channels}, but the network has {facts.channels}")
        training.refuse_crops(size, self.run.device)
