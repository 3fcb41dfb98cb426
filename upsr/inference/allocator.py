"""The C library's memory allocator: it hands large buffers back to the system, only to ask for them again at the next operator,
and every page of them is then cleared anew."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT = 1 << 30


@cache
def keep_buffers() -> bool:
    """Let the process keep up to 1 GiB of what it has freed; whether the C library could be told (glibc can)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
