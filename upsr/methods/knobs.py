"""Settings of a restoration that a user may turn: numbers, texts and choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any


@dataclass(frozen=True)
class Knob:
    """A setting of a restoration that a user may turn.

    Attributes:
        about: for a label or a help text.
        low, high: range of values, both included.
        default: the method's own value; ``None`` where it follows from other settings.
        whole: integers only.
        hint: shorter than ``about``, for those who see the range: ``Fewer: faster.``
        advanced: is set rarely; the page has it under More settings, empty for the method's own value.
    """

    about: str
    low: float
    high: float
    default: float | None = None
    whole: bool = False
    hint: str = ""
    advanced: bool = False

    def parsed(self, text: str) -> float:
        """The value that a text means.

        Raises:
            ValueError: it is no number.
        """
        return float(text)

    def problem(self, value: Any) -> str | None:
        """Reason to refuse a value, and the remedy."""
        number = isinstance(value, Real) and not isinstance(value, bool)  # a caller in Python may give anything
        if number and self.low <= value <= self.high and not (self.whole and value != int(value)):
            return None
        numbers = "whole numbers from " if self.whole else ""
        said = f"{value:g}" if number else repr(value)
        return f"is {said}; give {numbers}{self.low:g} to {self.high:g}: {self.about}"


@dataclass(frozen=True)
class TextKnob:
    """A setting of a restoration that is a text, or one of several names.

    Attributes:
        about, hint, advanced: as of :class:`Knob`.
        default: the method's own value.
        choices: the values that it takes; any where there are none.
    """

    about: str
    default: str
    choices: Sequence[str] = ()
    hint: str = ""
    advanced: bool = False

    def parsed(self, text: str) -> str:
        """The text."""
        return text

    def problem(self, value: Any) -> str | None:
        """Reason to refuse a value, and the remedy."""
        if isinstance(value, str) and (not self.choices or value in self.choices):
            return None
        return f"is {value!r}; give {' or '.join(self.choices) or 'text'}: {self.about}"
