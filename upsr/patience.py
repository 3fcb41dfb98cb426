"""A word for those who wait for something that says nothing by itself."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_PATIENCE = 1.5
"""Seconds after which a program that shows nothing seems to hang."""


@contextlib.contextmanager
def said_if_slow(text: str) -> Iterator[None]:
    """Shows ``text`` on a terminal while the block lasts, once it has lasted a while; in a log file nothing is written.

    Of several processes the first one speaks.
    """
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield
        return
    shown = threading.Event()

    def show() -> None:
        shown.set()
        print(f"{text} ...", end="", file=sys.stderr, flush=True)

    timer = threading.Timer(_PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if shown.is_set():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
