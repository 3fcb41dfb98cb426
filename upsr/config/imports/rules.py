"""Rules of translation: a source key gives target keys, or the reason why it gives none."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

Path = tuple[str, ...]

_NEAR = 0.75
"""Similarity of a misspelt key and the one that is meant, of 1."""


@dataclass(frozen=True)
class Put:
    """A target key and its value.

    Attributes:
        key: nested keys joined by a dot.
        note: the conversion in a few words, for the report and as a comment in the written file.
        of: sub-key of the source section that it comes from; by default the key that the rule is for.
    """

    key: str
    value: Any
    note: str = ""
    of: str = ""


@dataclass(frozen=True)
class Left:
    """A source key that nothing is made of.

    Attributes:
        reason: for the report.
        matters: the run differs without it; the written file keeps it as a comment.
        of: see :class:`Put`.
    """

    reason: str
    matters: bool = False
    of: str = ""


Outcome = Put | Left


@dataclass(frozen=True)
class Place:
    """The place that a rule is applied at.

    Attributes:
        source: the whole file.
        path: keys of the value.
    """

    source: Mapping[str, Any]
    path: Path

    def get(self, key: str, default: Any = None) -> Any:
        """The value of another key, nested keys joined by a dot."""
        value: Any = self.source
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return default if value is None else value


Rule = Callable[[Any, Place], Iterable[Outcome]]
Rules = Mapping[str, Rule]
"""Rules by patterns of keys: parts joined by dots, in which ``*`` and ``?`` stand for letters, and ``**`` for any parts.
The first that fits counts."""


@dataclass(frozen=True)
class Format:
    """A kind of option file.

    Attributes:
        name: for messages.
        known: true for such a file, false for others, ours among them.
        rules: by patterns.
        preset: target keys that such files leave unsaid, with nested keys joined by a dot; those of ``train``, ``val`` and
            ``degradation`` go into files that have this section.
    """

    name: str
    known: Callable[[Mapping[str, Any]], bool]
    rules: Rules
    preset: Mapping[str, Any]


def as_is(value: Any) -> Any:
    """The value itself."""
    return value


def to(key: str, convert: Callable[[Any], Any] = as_is, note: str = "") -> Rule:
    """The rule of a key with another name or form of value; null means that the target keeps its default.

    Args:
        convert: raises ValueError or TypeError for what cannot be converted.
    """

    def rule(value: Any, place: Place) -> Iterator[Outcome]:
        yield Left("nothing is set") if value is None else Put(key, convert(value), note)

    return rule


def no_effect(reason: str) -> Rule:
    """The rule of a key without which the run is the same."""
    return lambda value, place: [Left(reason)]


def not_here(reason: str) -> Rule:
    """The rule of a key that there is nothing for; where it is off, null, empty or zero, nothing is missing."""
    return lambda value, place: [Left("it is off") if not value else Left(reason, matters=True)]


def only(wanted: Any, reason: str) -> Rule:
    """The rule of a key of which one value is how things are here."""
    return lambda value, place: [
        Left(f"as here: {reason}") if value in (wanted, None) else Left(f"otherwise here: {reason}", matters=True)
    ]


def under(prefix: str, rules: Rules) -> dict[str, Rule]:
    """The rules for the keys of a section."""
    return {f"{prefix}.{pattern}": rule for pattern, rule in rules.items()}


def joined(*tables: Rules) -> dict[str, Rule]:
    """The rules of several tables; where two have a pattern, the first table's counts."""
    result: dict[str, Rule] = {}
    for table in tables:
        for pattern, rule in table.items():
            result.setdefault(pattern, rule)
    return result


def rule_for(rules: Rules, path: Path) -> Rule | None:
    """The first rule whose pattern fits."""
    return next((rule for pattern, rule in rules.items() if fits(_parts(pattern), path)), None)


@functools.cache
def _parts(pattern: str) -> Path:
    return tuple(pattern.split("."))


def is_section(rules: Rules, path: Path) -> bool:
    """True where there are rules for keys inside ``path``."""
    patterns = map(_parts, rules)
    return any(len(pattern) > len(path) and fits(pattern[: len(path)], path) for pattern in patterns)


@functools.cache
def fits(pattern: Path, path: Path) -> bool:
    """True for a path of the pattern."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(fits(pattern[1:], path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and fits(pattern[1:], path[1:])


def near_key(rules: Rules, path: Path) -> str | None:
    """The known key that an unknown one is nearest to, in the spelling of a mistake; ``None`` where none is near."""
    patterns = [_parts(pattern) for pattern in rules]
    for depth, name in enumerate(path):
        inside = [p for p in patterns if len(p) > depth and "**" not in p and fits(p[:depth], path[:depth])]
        if any(fnmatchcase(name, pattern[depth]) for pattern in inside):
            continue
        names = sorted({pattern[depth] for pattern in inside if not {"*", "?"} & set(pattern[depth])})
        near = difflib.get_close_matches(name, names, n=1, cutoff=_NEAR)
        return ".".join((*path[:depth], *near, *path[depth + 1 :])) if near else None
    return None


def whole(value: Any) -> int:
    """A whole number, which other readers of YAML may have as 5e3 or as a text.

    Raises:
        ValueError: it is none.
    """
    found = float(value)
    if found != int(found):
        raise ValueError(f"{value} is no whole number")
    return int(found)


def count(value: Any) -> int:
    """A whole number of at least 0; -1 stands for none in files of this field."""
    return max(0, whole(value))


def number(value: Any) -> float:
    """A number, which may be given as a text.

    Raises:
        ValueError: it is none.
    """
    return float(value) if isinstance(value, str | bool) else 0 + value


def numbers(value: Any) -> list[float]:
    """A list of numbers; one number is a list of one."""
    return [number(v) for v in (value if isinstance(value, list) else [value])]


def flag(value: Any) -> bool:
    """True or false.

    Raises:
        ValueError: it is neither.
    """
    if value in (True, False):
        return bool(value)
    raise ValueError(f"{value!r} is neither true nor false")


def folder_name(value: Any) -> str:
    """A text that may be a folder's name."""
    return "".join("_" if c in "/\\:" or ord(c) < 32 else c for c in str(value))
