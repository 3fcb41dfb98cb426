"""One careful timer for everything that reports seconds: warm-up, an idle device before and after, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from upsr.devices import is_cuda, synchronise


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
    """Time a function after ``warmup`` runs that are not counted: by CUDA's events where there are any, else by the clock."""
    measure = _by_events if is_cuda(device) else _by_clock
    for _ in range(warmup):
        run()
    return Timing([measure(run, device) for _ in range(repeats)])


def _by_clock(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def _by_events(run: Callable[[], object], device: torch.device) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    synchronise(device)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
