"""How large a tile may be in the memory there is."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from upsr.devices import memory_left
from upsr.methods.base import Method
from upsr.tiling.windows import most_pixels

TILE_SIDES = (256, 192, 128, 96, 64)
OVERLAP = 24
SCRATCH_ROOM = 64 << 20

_SHARE = 0.5
"""Of the free memory that a tile may take: allocators keep more than they use."""


def choose_tile(method: Method, device: torch.device, processes: int = 1) -> int:
    """Side in LR pixels of the largest tile whose windows half of the free memory holds; 256 wherever there is enough, so that
    most machines restore alike. The smallest is taken even where memory is too short for it.

    Args:
        processes: that share the memory.
    """
    free = free_memory(device) / processes * _SHARE
    return next((side for side in TILE_SIDES if tile_memory(method, side) <= free), TILE_SIDES[-1])


def tile_memory(method: Method, side: int) -> int:
    """Bytes that the networks need in float32, about, for the largest window that tiles of ``side`` LR pixels are made to."""
    return 4 * method.facts.values_per_pixel * most_pixels(side)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on the device: where it shares the CPU's memory, what the system and the control group have left."""
    own = memory_left(device)
    return own if own is not None else min([psutil.virtual_memory().available, *_group_memory(Path("/sys/fs/cgroup"))])


def _group_memory(root: Path) -> list[int]:
    """What is left below the limit of the control group, where there is one (version 2, then version 1)."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return [max(int((root / limit).read_text()) - int((root / used).read_text()), 0)]
        except (OSError, ValueError):
            continue
    return []
