"""libvips, imported when it is needed."""

from __future__ import annotations

import logging
import os
from typing import Any


class _Used:
    process: int | None = None


def vips() -> Any:
    """The library. Its import takes a while; what it warns of is no concern of our users."""
    import pyvips

    logging.getLogger("pyvips").setLevel(logging.ERROR)
    _Used.process = _Used.process or os.getpid()
    return pyvips


def vips_works_here() -> bool:
    """Whether this process may use it.

    Not if it was forked from one that had: libvips' idle threads do not come along, and it would wait for them for ever.
    """
    return _Used.process in (None, os.getpid())
