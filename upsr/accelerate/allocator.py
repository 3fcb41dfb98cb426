"""Settings of glibc's allocator. It returns large buffers to the system after each operator, and allocating them again costs page
faults."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_WORKING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 1 << 30}
_USUAL = {_MMAP_MAX: 1 << 16, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 256 << 20}
"""The values at which glibc's own adjustment of its thresholds ends, but for the buffers that every small image needs."""

_MOST_PIXELS = 384 * 256
"""LR pixels at once, those of the largest window of tiles of 256, which took a fifth to a third less time and 6 to 12 % more
memory; the gaps between the buffers of larger images would nearly double the memory."""

_lock = Lock()
_users = 0


@contextmanager
def kept_buffers(pixels: int) -> Iterator[None]:
    """Keeps up to 1 GiB of freed memory inside the context, up to 256 MiB after it.

    Any number of threads may be inside. Without glibc it does nothing.

    Args:
        pixels: LR pixels that are restored at once; with more than 98,304 nothing is kept.
    """
    if pixels > _MOST_PIXELS:
        yield
        return
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _users
    with _lock:
        before, _users = _users, _users + change
        if (before == 0) != (_users == 0):
            for parameter, value in (_WORKING if _users else _USUAL).items():
                _mallopt()(parameter, value)


@cache
def _mallopt() -> Callable[[int, int], int]:
    """glibc's function, or one that does nothing."""
    if sys.platform.startswith("linux"):
        try:
            return ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):
            pass
    return lambda parameter, value: 0
