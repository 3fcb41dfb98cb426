"""Reads an option file: YAML, command-line overrides, structure. Says everything that is wrong at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upsr.config.problems import Problem, problems_of
from upsr.config.schema import Options
from upsr.config.yaml_text import load_yaml
from upsr.errors import UpsrError
from upsr.text import read_text

_DEEPEST_KEY = 20


def load_options(path: str | Path, force_yml: Sequence[str] = ()) -> Options:
    """Read and check an option file.

    Args:
        path: the YAML file. Its key ``base`` may name another option file that it changes.
        force_yml: overrides ``key=value`` with nested keys joined by ``.`` or ``:`` (``train.optim_g.lr=5e-5``);
            values are YAML.

    Raises:
        UpsrError: the file is missing or no YAML, or keys are unknown, missing or of the wrong type. All problems are
            named in one message.
    """
    return parse_options(read_options(path, force_yml), str(path))


def read_options(path: str | Path, force_yml: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping that :func:`load_options` checks: the file over its base, and the overrides over both."""
    data = read_with_base(path)
    for override in force_yml:
        data = _overridden(data, override)
    return data


def read_with_base(path: str | Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """An option file's mapping over that of its ``base`` file, if it names one (relative to itself)."""
    path = Path(path)
    data = read_yaml(path)
    base = data.pop("base", None)
    if base is None:
        return data
    base_path = (path.parent / str(base)).resolve()
    if base_path in seen:
        raise UpsrError(f"{path}: base: {base} leads back to itself")
    if not base_path.is_file():
        raise UpsrError(f"{path}: base: no such option file: {base_path}")
    return merged(read_with_base(base_path, (*seen, base_path)), data)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``, section by section; a component of another type replaces the whole section."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = value
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            kind = below.get("type")
            result[key] = merged(below, value) if value.get("type", kind) == kind else value
    return result


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, or one clear error."""
    try:
        data = load_yaml(read_text(path))
    except FileNotFoundError:
        raise UpsrError(f"{path}: no such option file") from None
    except ValueError as error:
        raise UpsrError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UpsrError(f"{path}: an option file is a mapping of keys to values")
    return data


def parse_options(data: Mapping[str, Any], source: str) -> Options:
    """Options from an already read mapping; ``source`` names it in errors."""
    refuse(source, list(problems_of(Options, data)))
    return Options.model_validate(data)


def refuse(source: str, problems: Sequence[Problem]) -> None:
    """Raise one error that names all problems, if there are any."""
    if problems:
        raise UpsrError("\n".join(f"{source}: {problem}" for problem in problems))


def _overridden(data: dict[str, Any], override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    keys = re.split(r"[.:]", name.strip())
    if not equals or not all(keys) or len(keys) > _DEEPEST_KEY:
        raise UpsrError(f"--force_yml {override}: write key=value, nested keys as train.optim_g.lr=5e-5")
    try:
        value = load_yaml(text)
    except ValueError as error:
        raise UpsrError(f"--force_yml {override}: the value is not valid YAML ({error})") from None
    result = dict(data)
    level = result
    for key in keys[:-1]:
        below = level.get(key)
        level[key] = dict(below) if isinstance(below, Mapping) else {}
        level = level[key]
    level[keys[-1]] = value
    return result
