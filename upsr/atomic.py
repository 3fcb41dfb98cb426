"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upsr.errors import UpsrError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_UNFINISHED = ".part"


def writable_folder(path: str | Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        UpsrError: it cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UpsrError(f"{path}: the folder cannot be written to ({error.strerror})") from None


@contextlib.contextmanager
def folder_for_results(path: str | Path) -> Iterator[Path]:
    """Yield the folder, as :func:`writable_folder`. One that was made and is empty at the end is removed: nothing came of it.

    Raises:
        UpsrError: it cannot be made or written to.
    """
    made = not Path(path).exists()
    folder = writable_folder(path)
    try:
        yield folder
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def atomic_write(path: str | Path, *full: type[Exception]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    The content is on disk before the name is. When the block fails nothing is left behind, and an older file at
    ``path`` stays as it was. What a killed process leaves behind is removed by :func:`sweep`.

    Args:
        full: exceptions that mean a full disk, beside OSError.

    Raises:
        UpsrError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{_UNFINISHED}")
        # Not mkstemp, whose files are private: the umask can only be read by setting it, for all threads.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
    except OSError as error:
        raise UpsrError(f"{path}: the folder cannot be written to ({error.strerror})") from None
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # some writers replace the file by one that is private
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:
        cause = error if isinstance(error, full) else _disk_error(error)
        if cause is None:
            raise
        raise UpsrError(f"{path}: cannot be written ({getattr(cause, 'strerror', None) or cause})") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, *full: type[Exception]) -> Iterator[Path]:
    """Yield a new folder beside ``path`` that takes its name when the block ends well, and is removed otherwise.

    What a killed process has left of it is replaced, so no other may be writing it.

    Args:
        full: exceptions that mean a full disk, beside OSError.

    Raises:
        UpsrError: there is more than an empty folder at ``path``, or it cannot be written to.
    """
    target = Path(path).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UpsrError(f"{path}: exists already and is no empty folder; remove it or choose another name")
    writable_folder(target.parent)
    unfinished = target.with_name(f".{target.name}{_UNFINISHED}")
    shutil.rmtree(unfinished, ignore_errors=True)
    failures: tuple[type[Exception], ...] = (OSError, *full)
    try:
        unfinished.mkdir()
        yield unfinished
        if target.exists():
            target.rmdir()
        unfinished.rename(target)
    except failures as error:
        raise UpsrError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def held(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold what one process has at a time: all that do so with the same ``path``, on any machine that shares the folder.

    A killed process holds nothing. Where the system has no such locks (Windows), nothing is held.

    Args:
        path: in a folder that is there. A hidden file beside it is locked, and removed afterwards.
        waiting: called once where another process holds it.
    """
    if fcntl is None:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
                waiting = None
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Its last holder has removed the file: others may lock another of this name.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                break
        os.close(handle)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _disk_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind ``error``: torch.save reports one of its own when the disk is full."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def sweep(folder: str | Path) -> None:
    """Remove the unfinished files of writers that were killed. No one may be writing to the folder meanwhile."""
    for leftover in Path(folder).glob(f".*{_UNFINISHED}"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the renaming durable, where the system allows a folder to be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
