"""What differs between two option files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = "(none)"


def option_differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """``key: old -> new`` for every value that is not the same, in the order of the keys."""
    for key in sorted({*old, *new}):
        a, b = old.get(key, _ABSENT), new.get(key, _ABSENT)
        name = f"{where}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from option_differences(a, b, f"{name}.")
        elif a != b:
            yield f"{name}: {a} -> {b}"
