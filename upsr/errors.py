"""Mistakes of the user as exceptions, and as the exit codes of programs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, ParamSpec

_P = ParamSpec("_P")


class UpsrError(Exception):
    """A mistake outside the program: a wrong option, a missing file, an absent device.

    The message names the file, key or device and the remedy, in one line. Entry points print it without a traceback and
    exit with ``exit_code``. An error that all processes of a run raise ``together`` is printed by the main one alone.
    """

    exit_code: ClassVar[int] = 2
    label: ClassVar[str] = "error"
    together: ClassVar[bool] = False


class MissingPackageError(UpsrError):
    """An optional package is not installed."""


class MissingFileError(UpsrError):
    """A weight file or a folder of them is not there.

    Attributes:
        path: the file or folder.
    """

    def __init__(self, message: str, path: str | Path) -> None:
        super().__init__(message)
        self.path = Path(path)


class DivergedError(UpsrError):
    """Training stopped because losses or gradients are no longer finite."""

    exit_code: ClassVar[int] = 3
    together: ClassVar[bool] = True


class PeerLostError(UpsrError):
    """Another process of the run ended or does not answer."""

    exit_code: ClassVar[int] = 4


class UnsoundResultError(UpsrError):
    """A restored image is not finite, or blank although the photo is not."""


class PreemptedError(UpsrError):
    """Training was asked to stop, saved its state and can be resumed (75 is EX_TEMPFAIL of sysexits.h)."""

    exit_code: ClassVar[int] = 75
    label: ClassVar[str] = "stopped"
    together: ClassVar[bool] = True


def exiting(main: Callable[_P, int | None]) -> Callable[_P, int]:
    """Makes an entry point return its exit code in place of raising.

    An :class:`UpsrError` becomes one message on standard error and its exit code, Ctrl-C 130. A closed pipe ends quietly with 0,
    as does a ``main`` that returns ``None``.
    """

    @functools.wraps(main)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except UpsrError as error:
            print(f"{error.label}: " + "\n".join(map(one_line, str(error).split("\n"))), file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            return 0

    return run


def one_line(text: str) -> str:
    """Text with line ends, other characters that do not print, and bytes that are no UTF-8 escaped as in Python."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    # PEP 383 maps bytes that are no UTF-8 to these code points.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
