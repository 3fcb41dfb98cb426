"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class UpsrError(Exception):
    """A mistake outside the program: a wrong option, a missing file, an absent device.

    The message names the file, key or device and the remedy, in one line. Entry points print it
    without a traceback and exit with code 2.
    """
