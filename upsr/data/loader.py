"""Loaders over datasets."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from upsr.data.image_io import UnreadableImageError
from upsr.data.sampler import GlobalBatchSampler
from upsr.errors import UpsrError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; kill, torchrun and Slurm; ``sbatch --signal=USR1@120``. They often reach a whole group of processes."""


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack tensors; keep everything else as lists."""
    return {
        key: torch.stack([item[key] for item in items])
        if isinstance(items[0][key], torch.Tensor)
        else [item[key] for item in items]
        for key in items[0]
    }


def build_train_loader(
    dataset: Dataset[Any], sampler: GlobalBatchSampler, *, num_workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """Micro-batches in the order of ``sampler``."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=set_up_worker,
    )


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; a user's mistake found in a worker keeps its one-line message.

    torch passes on a worker's exception with the worker's traceback for a message.
    """
    try:
        yield from loader
    except UpsrError as error:
        raise UpsrError(str(error).strip().rpartition("Error: ")[2]) from None


class SkippingUnreadable(Dataset[dict[str, Any]]):
    """A dataset whose unreadable images are items with nothing but ``unreadable``, the reason."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[index]
        except UnreadableImageError as error:
            return {"unreadable": str(error)}


def set_up_worker(_: int) -> None:
    """One thread, so that workers do not compete with the training process for cores; signals are that one's to answer.

    Only the training process itself ends its workers: it does so with SIGTERM when it exits.
    """
    torch.set_num_threads(1)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none; there a group's signal ends the workers too
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    """Ends this process at the parent's signal. A handler does not learn the sender of a signal; sigwaitinfo does."""
    while signal.sigwaitinfo(STOP_SIGNALS).si_pid != parent:
        pass
    os._exit(0)
