"""The state of a training run as a few files of limited size, and back."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from upsr.atomic import atomic_write
from upsr.errors import UpsrError

PIECE = 15 << 20
"""Bytes of a file: what carries them back may take no larger ones."""

_NAME = "state.tar."


def pack(runs: Path, out: Path) -> int:
    """Write ``out/state.tar.00`` and so on: everything of the runs, but of checkpoints the newest alone. Returns the bytes."""
    for old in out.glob(f"{_NAME}*"):
        old.unlink()
    size = 0
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            for path in carried(runs):
                archive.add(path, str(path.relative_to(runs)), recursive=False)
        whole.seek(0)
        while piece := whole.read(PIECE):
            with atomic_write(out / f"{_NAME}{size // PIECE:02d}") as path:
                path.write_bytes(piece)
            size += len(piece)
    return size


def unpack(out: Path, runs: Path) -> None:
    """What :func:`pack` wrote, if it did, into the folder of the runs.

    Raises:
        UpsrError: the files are not whole.
    """
    pieces = sorted(out.glob(f"{_NAME}*"))
    if not pieces:
        return
    with tempfile.TemporaryFile() as whole:
        for piece in pieces:
            whole.write(piece.read_bytes())
        whole.seek(0)
        try:
            with tarfile.open(fileobj=whole) as archive:
                archive.extractall(runs, filter="data")
        except tarfile.TarError as error:
            raise UpsrError(f"{out}: state.tar.* is not whole ({error}); remove it to start again") from None


def carried(runs: Path) -> Iterator[Path]:
    """The files of runs, without checkpoints that a newer one follows."""
    for path in sorted(runs.rglob("*")):
        numbers = [_iteration(other) for other in path.parent.iterdir()] if path.is_file() else []
        if path.is_file() and (not (own := _iteration(path)) or own == max(numbers)):
            yield path


def _iteration(path: Path) -> int:
    """Of a checkpoint or the weights beside it; 0 of other files."""
    found = re.search(r"(?:^|_)(\d+)\.", path.name) if path.parent.name in ("training_states", "models") else None
    return int(found[1]) if found else 0
