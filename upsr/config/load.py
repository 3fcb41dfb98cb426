"""Reads option files: YAML, base files, command-line overrides, structure. One message names everything that is wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from upsr.config.foreign import foreign_keys, own_part
from upsr.config.imports.formats import format_of
from upsr.config.methods import NAMING, UnknownMethodError, find_method
from upsr.config.problems import Problem, problems_of
from upsr.config.schema import CommonOptions
from upsr.config.yaml_text import load_yaml
from upsr.errors import UpsrError
from upsr.text import read_text

RUN_OPTIONS = "options.yml"
"""In the folder of a training run: its options, defaults included."""

_DEEPEST_KEY = 20

Inherit = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
"""From a base file's mapping and that of the file that changes it, what remains of the base."""


def load_options(path: str | Path, force_yml: Sequence[str] = ()) -> CommonOptions:
    """Read and check an option file; the result is of the structure of its method.

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
    """The mapping that :func:`load_options` checks: the file over its base, and the overrides over both.

    A file that names another method than its base inherits no section that its own method does not have. The options.yml of
    a run may hold such sections, as earlier versions had those of all methods in one structure; they are left out as well.
    """
    path = Path(path)
    data = read_with_base(path, _inherited)
    if foreign := format_of(data):
        raise UpsrError(
            f"{path}: an option file of {foreign.name}; translate it: upsr options import {shlex.quote(str(path))} -o MINE.yml"
        )
    if path.name == RUN_OPTIONS and (path.parent / "models").is_dir():
        data = own_part(data)
    overrides = [_override(text) for text in force_yml]
    data = _inherited(data, {keys[0]: value for keys, value in overrides})
    for keys, value in overrides:
        data = _overridden(data, keys, value)
    return data


def _inherited(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What remains of options under changes that may name another method."""
    if not {"method", "model_type"} & changes.keys():
        return base
    kept = {key: value for key, value in base.items() if key not in NAMING}
    return own_part(kept, {key: value for key, value in changes.items() if key in NAMING})


def read_with_base(
    path: str | Path, inherit: Inherit = lambda base, changes: base, seen: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """A YAML file's mapping over that of its ``base`` file, if it names one (relative to itself)."""
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
    return merged(inherit(read_with_base(base_path, inherit, (*seen, base_path)), data), data)


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


def parse_options(data: Mapping[str, Any], source: str) -> CommonOptions:
    """Options from an already read mapping; ``source`` names it in errors."""
    refuse(source, list(option_problems(data)))
    return find_method(data).options.model_validate(own_part(data))


def option_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that is wrong with the structure of options; null for a section of another method means none."""
    try:
        found = find_method(data)
    except UnknownMethodError as error:
        yield Problem(error.key, str(error))
        return
    yield from problems_of(found.options, own_part(data))
    for foreign in foreign_keys(data, found.options):
        if foreign.value is not None:
            kind = "section" if isinstance(foreign.value, Mapping) else "key"
            yield Problem(
                ".".join(foreign.location),
                f"a {kind} of the method {' or '.join(foreign.owners)}, and this file is of {found.name}; remove it",
            )


def refuse(source: str, problems: Sequence[Problem]) -> None:
    """Raise one error that names all problems, if there are any."""
    if problems:
        raise UpsrError("\n".join(f"{source}: {problem}" for problem in problems))


def _override(text: str) -> tuple[list[str], Any]:
    """Keys and value of ``key=value``."""
    name, equals, written = text.partition("=")
    keys = re.split(r"[.:]", name.strip())
    if not equals or not all(keys) or len(keys) > _DEEPEST_KEY:
        raise UpsrError(f"--force-yml {text}: write key=value, nested keys as train.optim_g.lr=5e-5")
    try:
        return keys, load_yaml(written)
    except ValueError as error:
        raise UpsrError(f"--force-yml {text}: the value is not valid YAML ({error})") from None


def _overridden(data: dict[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    result = dict(data)
    level = result
    for key in keys[:-1]:
        below = level.get(key)
        level[key] = dict(below) if isinstance(below, Mapping) else {}
        level = level[key]
    level[keys[-1]] = value
    return result
