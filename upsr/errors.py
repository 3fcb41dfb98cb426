"""The exceptions that mean "the user can mend this", each with the exit code of the program."""

from __future__ import annotations

import sys
from typing import ClassVar


class UpsrError(Exception):
    """A mistake outside the program: a wrong option, a missing file, an absent device.

    The message names the file, key or device and the remedy, in one line. Entry points print it without a traceback and
    exit with ``exit_code``. An error that all processes of a run raise ``together`` is printed by the main one alone.
    """

    exit_code: ClassVar[int] = 2
    label: ClassVar[str] = "error"
    together: ClassVar[bool] = False


class DivergedError(UpsrError):
    """Training stopped because it no longer gives finite numbers."""

    exit_code: ClassVar[int] = 3
    together: ClassVar[bool] = True


class PeerLostError(UpsrError):
    """Another process of the run ended or does not answer."""

    exit_code: ClassVar[int] = 4


class UnsoundResultError(UpsrError):
    """A restored image that no photo can have: not finite, or without anything of what the photo shows."""


class PreemptedError(UpsrError):
    """Training was asked to stop, saved its state and can be resumed (75 is EX_TEMPFAIL of sysexits.h)."""

    exit_code: ClassVar[int] = 75
    label: ClassVar[str] = "stopped"
    together: ClassVar[bool] = True


def told(error: UpsrError) -> int:
    """Print an error to standard error, as every entry point does; the exit code."""
    print(f"{error.label}: " + "\n".join(map(one_line, str(error).split("\n"))), file=sys.stderr)
    return error.exit_code


def one_line(text: str) -> str:
    """Text that is one line wherever it is printed: what names of files may hold beside letters, as line ends and bytes that are
    no UTF-8, is written with a backslash, as Python does."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    # Bytes of a name that is no UTF-8 lie here (PEP 383).
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
