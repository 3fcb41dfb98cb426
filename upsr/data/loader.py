"""Loaders over datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from upsr.data.sampler import GlobalBatchSampler


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
    """Micro-batches in the order of ``sampler``.

    A worker has one thread, so that workers do not compete with the training process for cores.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
