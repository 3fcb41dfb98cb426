"""One careful timer for everything that reports seconds: warm-up, an idle device before and after, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.4f} | {min(self.seconds):.4f} | {max(self.seconds):.4f}"


def timed(run: Callable[[], object], device: torch.device, repeats: int, warmup: int = 2) -> Timing:
    """Time a function after ``warmup`` runs that are not counted: by CUDA events on a GPU, else by the clock."""
    measure = _by_events if device.type == "cuda" else _by_clock
    for _ in range(warmup):
        run()
    return Timing([measure(run, device) for _ in range(repeats)])


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Reset the peak of the allocator."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Peak of the allocator in GiB since the last reset; ``None`` on the CPU, where nothing counts it."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def _by_clock(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _by_events(run: Callable[[], object], device: torch.device) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    synchronise(device)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
