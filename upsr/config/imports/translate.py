"""The engine: applies a format's rules to every key of a file, and accounts for every key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from upsr.config.imports.rules import Format, Left, Outcome, Path, Place, Put, is_section, near_key, rule_for
from upsr.config.problems import Problem
from upsr.errors import UpsrError

_FIRST = ("name", "method", "phase", "scale", "num_gpu", "manual_seed")
_LAST = ("path", "train", "val", "logger")
_NEEDED = ("scale",)
_OPTIONAL = ("train", "val", "degradation")
_REFUSALS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""Errors of conversions at values that they do not expect: those of other people's files may be anything."""


@dataclass(frozen=True)
class Account:
    """The account of a source key.

    Attributes:
        key: of the source, nested keys joined by a dot.
        value: its value there.
        puts: the target keys and values that were made of it.
        left: why nothing was, where nothing was.
        known: the format has a rule for it.
    """

    key: str
    value: Any
    puts: tuple[Put, ...] = ()
    left: Left | None = None
    known: bool = True


@dataclass
class Translation:
    """Options that were made of a file.

    Attributes:
        data: the options.
        origins: source path by target key, nested keys joined by a dot.
        accounts: of all source keys, in their order.
        added: keys and values that the format sets besides.
    """

    format: Format
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Path] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)
    added: dict[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> dict[str, str]:
        """Conversions in a few words, by target key."""
        return {put.key: put.note for account in self.accounts for put in account.puts if put.note}


def translated(form: Format, source: Mapping[str, Any], name: str) -> Translation:
    """Options of a file of ``form``, not yet checked.

    Args:
        name: of a run that has none.
    """
    result = Translation(form)
    for path, value in _ruled(form, source, ()):
        for account in _accounts(form, source, path, value):
            result.accounts.append(account)
            for put in account.puts:
                _set(result.data, put.key, put.value)
                result.origins.setdefault(put.key, (*path, put.of) if put.of else path)
    for key, value in {"name": name, "datasets": {}, **form.preset}.items():
        section = key.split(".")[0]
        if not _has(result.data, key) and (section not in _OPTIONAL or section in result.data):
            _set(result.data, key, value)
            result.added[key] = value
    result.data = _ordered(result.data)
    return result


def _ordered(data: Mapping[str, Any], first: Sequence[str] = _FIRST, last: Sequence[str] = _LAST) -> dict[str, Any]:
    """The usual order of keys."""
    keys = [key for key in dict.fromkeys([*first, *(key for key in data if key not in last), *last]) if key in data]
    return {key: _ordered(data[key], ("type",), ()) if isinstance(data[key], dict) else data[key] for key in keys}


def settle(result: Translation, problems: Callable[[Mapping[str, Any]], Iterable[Problem]]) -> list[Problem]:
    """Take out values that the checks of option files refuse; returns the problems that are left for the user.

    Args:
        problems: of options.

    Raises:
        UpsrError: a value is refused without which the rest means something else.
    """
    while True:
        found = list(problems(result.data))
        culprits = {
            target: problem
            for problem in found
            for target in result.origins
            if not problem.key.endswith("type") and _touches(problem.key, target)
        }
        if not culprits:
            return found
        for target, problem in culprits.items():
            if target in _NEEDED:
                raise UpsrError(f"{target}: {problem.message}; there is nothing like this file here")
            _remove(result, target, f"refused here: {problem.message}")


def _touches(key: str, target: str) -> bool:
    """A refused key is that of a target, or one inside it, or the section that it is in."""
    return f"{key}.".startswith(f"{target}.") or f"{target}.".startswith(f"{key}.")


def _remove(result: Translation, target: str, reason: str) -> None:
    del result.origins[target]
    _unset(result.data, target.split("."))
    for index, account in enumerate(result.accounts):
        if any(put.key == target for put in account.puts):
            puts = tuple(put for put in account.puts if put.key != target)
            result.accounts[index] = Account(account.key, account.value, puts, Left(reason, matters=True))
            return


def _ruled(form: Format, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The outermost keys that have a rule, and the innermost of those that have none."""
    if path and (rule_for(form.rules, path) is not None or not isinstance(value, Mapping) or not value):
        yield path, value
        return
    for key, below in value.items():
        yield from _ruled(form, below, (*path, key))


def _accounts(form: Format, source: Mapping[str, Any], path: Path, value: Any) -> list[Account]:
    """The account of a key, or those of the keys of a section that has a rule."""
    rule, key = rule_for(form.rules, path), ".".join(path)
    if rule is None and not value and is_section(form.rules, path):
        return [Account(key, value, left=Left("nothing is set"))]
    if rule is None:
        near = near_key(form.rules, path)
        reason = f"not known here; did you mean '{near}'?" if near else "not known here"
        return [Account(key, value, left=Left(reason, matters=True), known=False)]
    try:
        outcomes = list(rule(value, Place(source, path)))
    except _REFUSALS as error:
        reason = " ".join(str(error).split())[:120]
        return [Account(key, value, left=Left(f"the value cannot be converted ({reason})", matters=True))]
    by_part: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_part.setdefault(outcome.of, []).append(outcome)
    found = [_account(f"{key}.{part}" if part else key, value, part, of) for part, of in by_part.items()]
    if isinstance(value, Mapping | list) and "" not in by_part:
        parts = value if isinstance(value, Mapping) else map(str, range(len(value)))
        missing = [part for part in parts if part not in by_part]
        unknown = Left("not known here", matters=True)
        found += [Account(f"{key}.{part}", _part(value, part), left=unknown, known=False) for part in missing]
    return found


def _account(key: str, value: Any, part: str, outcomes: list[Outcome]) -> Account:
    puts = tuple(outcome for outcome in outcomes if isinstance(outcome, Put))
    left = next((outcome for outcome in outcomes if isinstance(outcome, Left)), None)
    return Account(key, _part(value, part), puts, left)


def _part(value: Any, part: str) -> Any:
    """An entry of a section or list; the value itself for no part of it."""
    if not part:
        return value
    return value.get(part) if isinstance(value, Mapping) else value[int(part)]


def _has(data: Mapping[str, Any], key: str) -> bool:
    section: Any = data
    for part in key.split("."):
        if not isinstance(section, Mapping) or part not in section:
            return False
        section = section[part]
    return True


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
    data[last] = value


def _unset(data: dict[str, Any], keys: list[str]) -> None:
    """Remove a key, and the sections that are empty without it."""
    if len(keys) == 1:
        data.pop(keys[0], None)
    elif isinstance(data.get(keys[0]), dict):
        _unset(data[keys[0]], keys[1:])
        if not data[keys[0]]:
            del data[keys[0]]
