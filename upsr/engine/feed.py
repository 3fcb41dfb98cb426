"""Training batches on the device: files, then degradation and pool or a training's own feed, for the slots of this process."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from upsr.atomic import atomic_write
from upsr.config.schema import CommonOptions
from upsr.config.schema_data import DegradationOptions
from upsr.data import (
    DevicePrefetcher,
    GlobalBatchSampler,
    PairPool,
    RealESRGANDegradation,
    batches_of,
    build_train_loader,
)
from upsr.data.datasets import build_dataset
from upsr.devices import has_streams
from upsr.engine.distributed import Runtime
from upsr.engine.step import MicroBatch
from upsr.errors import UpsrError
from upsr.methods.base import Batch, Feed, Training
from upsr.rng import derive_seed, torch_generator

logger = logging.getLogger(__name__)


@runtime_checkable
class TrainingSet(Protocol):
    """A dataset that is trained on: its items are crops for a :class:`upsr.data.SampleId`, and its draws are the run's."""

    def bind(self, seed: int, degradation: DegradationOptions) -> None:
        """Tie the draws to a run's seed and the kernels to its degradation."""


class DegradedPairs:
    """The usual feed: ``lq`` and ``gt`` from ground truths that are degraded on the device, or stored pairs, and a pool.

    Raises:
        UpsrError: the scale is a fraction.
    """

    def __init__(self, opt: CommonOptions, training: Training) -> None:
        self.opt, self.training = opt, training
        self.scale = training.method.facts.whole_scale("training on degraded pairs")
        self.degradation = RealESRGANDegradation(opt.degradation, self.scale)
        self.pool = PairPool(opt.pair_pool.pairs_per_slot, round_lq=opt.degradation.round_lq)
        self._shapes: list[tuple[int, int, int]] = []

    def bind(self, dataset: Any, device: torch.device) -> None:
        """See :meth:`upsr.methods.base.Feed.bind`."""
        dataset.bind(self.opt.manual_seed, self.opt.degradation)
        size, scale, facts = dataset.gt_size, self.scale, self.training.method.facts
        multiple = facts.multiple * scale
        if size % multiple:
            raise UpsrError(
                f"datasets.train.gt_size: {size} is no multiple of {multiple}, which the network needs at x{scale}"
            )
        if dataset.scale not in (None, scale):
            raise UpsrError(f"datasets.train: its pairs are x{dataset.scale}, but scale is {scale}")
        if dataset.channels != facts.channels:
            raise UpsrError(f"datasets.train.channels: {dataset.channels}, but the network has {facts.channels}")
        if self.pool.pairs_per_slot and getattr(dataset, "with_photo", False):
            raise UpsrError("pair_pool.pairs_per_slot: the pool keeps pairs, without photos beside them; set it to 0")
        self.training.refuse_crops(size, device)
        self._shapes = [(dataset.channels, side, side) for side in (size // scale, size)]

    def batch(self, raw: Mapping[str, Any], iteration: int, slots: Sequence[int]) -> tuple[Batch, list[str]]:
        """See :meth:`upsr.methods.base.Feed.batch`."""
        keys = (self.opt.manual_seed, "train", iteration)
        gt = raw["gt"].float() / 255
        if stored := "lq" in raw:
            lq = raw["lq"].float() / 255
        else:
            lq = self.degradation(self.degradation.ground_truth(gt), raw["kernels"], slots=slots, keys=keys)
        lq, gt, files = self.pool.exchange(lq, gt, raw["key"], slots=slots, keys=keys)
        if stored:
            photos = {"photo": raw["photo"].float() / 255} if "photo" in raw else {}
            return {"lq": lq, "gt": gt, **photos}, files
        # The pool keeps crops as they are in files, in 8 bit, which sharpened ones are not; a discriminator sees them so, too.
        return {"lq": lq, "gt": self.degradation.ground_truth(gt), "photo": gt}, files

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """The pool's pairs by slot."""
        return self.pool.state_dict()

    def load_state_dict(
        self, state: Mapping[int, Mapping[str, Any]], slots: Sequence[int], device: torch.device
    ) -> int:
        """Take over the pairs of ``slots``; returns how many do not fit this run and are left out."""
        lq_shape, gt_shape = self._shapes
        return self.pool.load_state_dict(state, slots, device, lq_shape=lq_shape, gt_shape=gt_shape)


def micro_batch(
    feed: Feed, raw: Mapping[str, Any], *, seed: int, iteration: int, slots: Sequence[int], device: torch.device
) -> MicroBatch:
    """The samples that a feed makes of a raw batch, with the iteration and the generators of their slots."""
    batch, files = feed.batch(raw, iteration, slots)
    batch["iteration"] = torch.full((len(slots),), iteration, device=device)
    generators = [torch_generator(seed, "train", iteration, "slot", slot, device=device) for slot in slots]
    return MicroBatch(batch, generators, files, slots)


class TrainingData:
    """The training set of a run, read ahead and made into batches.

    Attributes:
        feed: the training's own, or :class:`DegradedPairs`.

    Raises:
        UpsrError: the set cannot be trained on, or does not fit the method.
    """

    def __init__(self, opt: CommonOptions, run: Runtime, training: Training) -> None:
        self.run = run
        self.seed = opt.manual_seed
        self.options = opt.datasets["train"]
        self.dataset = build_dataset(self.options)
        self.feed = training.feed(opt) or DegradedPairs(opt, training)
        self.feed.bind(self.dataset, run.device)
        self._unreadable: set[str] = set()
        self._batches: DevicePrefetcher | None = None

    @functools.cached_property
    def images_digest(self) -> int:
        """Of the names of all images, in their order, which the stream of samples depends on."""
        return derive_seed(*self.dataset.keys)

    def open(self, sampler: GlobalBatchSampler) -> None:
        """Start to read the batches of ``sampler``."""
        loader = build_train_loader(
            self.dataset,
            sampler,
            num_workers=self.options.num_worker_per_gpu,
            pin_memory=has_streams(self.run.device),
        )
        self._batches = DevicePrefetcher(batches_of(loader), self.run.device)

    @property
    def batches(self) -> DevicePrefetcher:
        """The raw batches: the items' tensors, stacked, on the device, ``key`` and ``unreadable``."""
        if self._batches is None:
            raise RuntimeError("open() comes first")
        return self._batches

    def micro_batches(self, iteration: int, sampler: GlobalBatchSampler) -> Iterator[MicroBatch]:
        """Those of an iteration.

        Raises:
            UpsrError: the data cannot be read any more.
        """
        for micro in range(sampler.accumulate):
            raw = self.batches.take()
            self._warn_of_unreadable(raw["unreadable"])
            place = {"seed": self.seed, "iteration": iteration, "slots": sampler.slots(micro)}
            yield micro_batch(self.feed, raw, **place, device=self.run.device)  # type: ignore[arg-type]

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
