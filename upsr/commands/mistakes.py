"""Mistakes that stop nothing else: one line each, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from upsr.errors import UpsrError, one_line


def say_broken(lines: Sequence[str]) -> int:
    """Name the descriptions that have mistakes; returns the exit code."""
    for line in lines:
        print(f"error: {one_line(line)}", file=sys.stderr)
    return UpsrError.exit_code if lines else 0
