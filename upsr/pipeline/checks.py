"""Kinds of values that callers in Python may give, and names of keywords."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from upsr.config.problems import did_you_mean
from upsr.errors import UpsrError


def is_number(value: Any) -> bool:
    """True for numbers of Python and numpy; truth values are none here."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole(name: str, value: Any, wanted: str = "a whole number") -> int:
    """A whole number, of any type that has its value.

    Raises:
        UpsrError: it is none.
    """
    if is_number(value) and math.isfinite(value) and value == int(value):
        return int(value)
    raise UpsrError(f"{name} is {value!r}; give {wanted}")


def refuse_unknown(given: Iterable[str], *known: Callable[..., Any]) -> None:
    """Refuse a keyword that none of the functions has, and name the nearest of the first one.

    Raises:
        UpsrError: there is one.
    """
    names = [
        [name for name, found in inspect.signature(function).parameters.items() if found.kind is not found.VAR_KEYWORD]
        for function in known
    ]
    for name in given:
        if not any(name in own for own in names):
            raise UpsrError(f"{name}: no such argument of {known[0].__name__}{did_you_mean(name, names[0])}")
