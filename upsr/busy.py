"""Other programs on the cores of this process, and what threads that wait for each other do about them. Imports no torch.

OpenMP's threads wait by spinning. Where another program runs too, one that spins keeps the one that it waits for from its core: a
photo that takes 0.5 s on two cores took 14.5 s beside two busy programs with the 300000 spins of libgomp's own, 1.7 to 2.0 s with
10000, 1.0 to 1.4 s with 1000. Fewer cost up to a tenth on a quiet machine (docs/performance.md, benchmarks/busy.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

QUIET_SPINS, BUSY_SPINS = 10000, 1000

_LOAD = Path("/proc/loadavg")
_SAMPLES, _APART = 5, 0.002
"""Looks at the number of running tasks, and seconds between them: what runs at every look is a program that computes."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_cores() -> int:
    """Cores of this process, about, that other programs keep busy now; 0 where the system does not tell (it is Linux that does).

    Of a process that may use some of the machine's cores only, other programs count by that share.
    """
    try:
        running = []
        for _ in range(_SAMPLES):
            running.append(int(_LOAD.read_text().split()[3].partition("/")[0]) - 1)  # without this one
            time.sleep(_APART)
    except (OSError, ValueError, IndexError):
        return 0
    return min(round(max(min(running), 0) * cores() / (os.cpu_count() or 1)), cores())


def set_waiting(environment: MutableMapping[str, str], busy: Callable[[], int]) -> None:
    """Let the threads of libgomp, which torch brings on Linux, wait for a shorter time than they do by themselves.

    Comes before the import of torch, which reads the variable. What a user, or the process that started this one, has set stays.

    Args:
        busy: tells the cores that other programs keep busy, in some time; asked only if it matters.
    """
    if "OMP_WAIT_POLICY" not in environment and "GOMP_SPINCOUNT" not in environment:
        environment["GOMP_SPINCOUNT"] = str(BUSY_SPINS if busy() else QUIET_SPINS)


def threads_beside(busy: int, allowed: int) -> int:
    """Threads that are fastest on so many cores of which others keep some busy.

    The free ones, for a thread that shares its core makes all wait; but all where none is free: one thread would share its core
    as well, and have less of the processor.
    """
    return allowed - busy if busy < allowed else allowed


def fit_threads(busy: int) -> str | None:
    """Give torch the threads of :func:`threads_beside`; a line that says so.

    Returns:
        ``None`` where nothing is done: no other program is at work, or the user has set the number of threads.
    """
    import torch  # the module is imported before it

    if not busy or any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return None
    torch.set_num_threads(min(threads_beside(busy, cores()), torch.get_num_threads()))
    spins = "".join(
        f", {name}={os.environ[name]}" for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ
    )
    return (
        f"other programs keep {busy} of {cores()} cores busy: {torch.get_num_threads()} thread(s){spins}; "
        "OMP_NUM_THREADS chooses their number"
    )
