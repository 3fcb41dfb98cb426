"""Tensors as large as an image: in memory while they are small, else in files that cost no memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from upsr.errors import UpsrError


class Scratch:
    """Makes float32 tensors of zeros.

    Those in files are mapped into memory; :meth:`release` gives the memory back and keeps the content. The files have no
    name, and are gone when the tensors are.

    Args:
        device: where tensors are while there is room for them.
        room: bytes that they may take there, by default any number; what no longer fits goes into files.
    """

    def __init__(self, device: torch.device, room: float = math.inf) -> None:
        self.device = device
        self._room = room
        self._mapped: list[mmap.mmap] = []

    def zeros(self, *shape: int) -> Tensor:
        """A float32 tensor of zeros, on the device or in a file.

        Raises:
            UpsrError: the disk is full.
        """
        size = 4 * math.prod(shape)
        if size <= self._room:
            self._room -= size
            return torch.zeros(shape, device=self.device)
        mapped = _mapped_file(size)
        self._mapped.append(mapped)
        return torch.frombuffer(mapped, dtype=torch.float32).view(shape)

    def release(self) -> None:
        """Let go of the memory that holds parts of the files."""
        for mapped in self._mapped:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)


def _mapped_file(size: int) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile() as file:
            # Writing to a mapping that the disk has no room for ends the process, so the room is taken beforehand.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise UpsrError(
            f"{tempfile.gettempdir()}: no room for {size / 2**30:.1f} GiB of a large image's state ({error.strerror}); "
            "free some, or set TMPDIR to another disk"
        ) from None


def bands(height: int, rows: int) -> Iterator[slice]:
    """Slices of at most ``rows`` rows that make up ``height``."""
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))
