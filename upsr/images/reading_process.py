"""Reads photos in a separate process, for processes that must not use libvips."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any, cast

from upsr.errors import UpsrError

_PROGRAM = "from upsr.images import reading, reading_process; reading_process.serve(reading.read_photo)"

_readers: dict[int, subprocess.Popen[bytes]] = {}
"""Readers by the process that started them. Starting takes seconds, so one serves all files; it ends with its input, or when a
file crashes libvips."""


def read_in_other_process(data: bytes, name: str, max_pixels: int) -> Any:
    """Returns or raises what :func:`upsr.images.reading.read_photo` does in another process."""
    if os.getpid() not in _readers or _readers[os.getpid()].poll() is not None:
        _readers[os.getpid()] = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    reader = _readers[os.getpid()]
    _send(cast(IO[bytes], reader.stdin), (data, name, max_pixels))
    found = _receive(cast(IO[bytes], reader.stdout))
    if isinstance(found, UpsrError):
        raise found
    return found


def serve(read_photo: Callable[..., Any]) -> None:
    """Answer requests on standard input until it ends."""
    while True:
        try:
            data, name, max_pixels = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found: Any = read_photo(data, name, max_pixels=max_pixels)
        except UpsrError as error:
            found = error
        _send(sys.stdout.buffer, found)


def _send(pipe: IO[bytes], what: Any) -> None:
    pickle.dump(what, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    return pickle.load(pipe)
