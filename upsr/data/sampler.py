"""The samples of each iteration: one endless stream, cut into global batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upsr.rng import numpy_generator


class SampleId(NamedTuple):
    """A sample of a training run: the same image is another sample in another epoch."""

    epoch: int
    image: int


class GlobalBatchSampler:
    """Batches of one process, as a function of the iteration alone.

    Position p of the stream is image number p mod n in the order of epoch p div n. An iteration reads the next G positions,
    G being the global batch. A sample's place in the global batch is its slot; process r owns, in micro-batch m,
    the slots from (m * world_size + r) * batch_size on. No remainder of an epoch is dropped, so every split of the same
    global batch reads the same samples, and a resumed run goes on where it stopped.

    Yields one list of :class:`SampleId` for each micro-batch.

    Args:
        num_samples: images of the dataset, n.
        seed: of the run.
        batch_size: samples of one process in one micro-batch.
        accumulate: micro-batches of an iteration.
        start, stop: iterations to read, counted from 0, stop excluded.
        position: where iteration ``start`` begins to read; by default start * G, as if G had never been another.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        start: int = 0,
        stop: int,
        position: int | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.batch_size = batch_size
        self.world_size = world_size
        self.rank = rank
        self.accumulate = accumulate
        self.start = start
        self.stop = stop
        self._first = start * self.global_batch if position is None else position
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def global_batch(self) -> int:
        """Samples of one iteration over all processes."""
        return self.batch_size * self.world_size * self.accumulate

    def position(self, iteration: int) -> int:
        """Samples of the stream that were consumed when ``iteration`` begins."""
        return self._first + (iteration - self.start) * self.global_batch

    def slots(self, micro: int) -> range:
        """Slots of this process in a micro-batch."""
        first = (micro * self.world_size + self.rank) * self.batch_size
        return range(first, first + self.batch_size)

    def all_slots(self) -> list[int]:
        """Slots of this process in an iteration."""
        return [slot for micro in range(self.accumulate) for slot in self.slots(micro)]

    def __len__(self) -> int:
        return max(0, self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[SampleId]]:
        for iteration in range(self.start, self.stop):
            for micro in range(self.accumulate):
                yield [self._sample(self.position(iteration) + slot) for slot in self.slots(micro)]

    def _sample(self, position: int) -> SampleId:
        epoch, place = divmod(position, self.num_samples)
        if self._order[0] != epoch:
            self._order = (epoch, numpy_generator(self.seed, "order", epoch).permutation(self.num_samples))
        return SampleId(epoch, int(self._order[1][place]))
