"""A trace of some iterations, for chrome://tracing or https://ui.perfetto.dev."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile, schedule, supported_activities

from upsr.atomic import atomic_write

logger = logging.getLogger(__name__)

_SKIPPED = 3


class _NoProfiler:
    def step(self) -> None:
        """An iteration ended."""


@contextlib.contextmanager
def profiled(path: Path, iterations: int | None, device: torch.device) -> Iterator[Any]:
    """Record ``iterations`` iterations after a few to warm up; ``None`` records nothing.

    Yields an object whose ``step()`` is called after each iteration. The trace goes to ``path``, and the operations that
    took longest to the log.
    """
    if iterations is None:
        yield _NoProfiler()
        return

    def write(profiler: profile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            profiler.export_chrome_trace(str(temporary))
        by = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
        logger.info("trace in %s\n%s", path, profiler.key_averages().table(sort_by=by, row_limit=15))

    plan = schedule(wait=_SKIPPED - 1, warmup=1, active=iterations, repeat=1)
    with profile(activities=supported_activities(), schedule=plan, on_trace_ready=write) as profiler:
        yield profiler
