"""Writes translated options with the comments of their source."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

from upsr.config.imports.rules import Path
from upsr.config.imports.source import Comments, Source
from upsr.config.imports.translate import Account, Translation
from upsr.config.yaml_text import load_yaml

_INDENT = 2
_NULL = "tag:yaml.org,2002:null"


def option_text(result: Translation, source: Source, name: str) -> str:
    """The YAML text of translated options. What matters and was left out stands at its head.

    Args:
        name: of the source file.
    """
    from ruamel.yaml import YAML

    lines = [f"Translated by `upsr options import` from {name}, an option file of {result.format.name}."]
    if left := [account for account in result.accounts if account.left and account.left.matters]:
        lines += ["Left out, although it matters there:", *(f"  {about(account)}" for account in left)]
    first = next(iter(source.comments.values()), Comments())
    lines += ["", *first.above] if first.above else []
    first.above.clear()
    notes = _placed(result, source)
    root = _mapping(result.data, notes, (), 0)
    yaml = YAML()
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL, "null"))
    text = io.StringIO()
    yaml.dump(root, text)
    head = "".join(f"# {line}\n" if line else "\n" for line in lines)
    tail = "".join(f"# {line}\n" for line in source.tail)
    spaced = re.sub(r"(?m)^((?:#.*\n)*\w+:(?: #.*)?\n(?= ))", r"\n\1", text.getvalue())
    return f"{head}\n{spaced}{tail}"


def about(account: Account) -> str:
    """A key, its value and why it was left out, in a line."""
    return f"{account.key}: {shown(account.value)}  ({account.left.reason if account.left else ''})"


def shown(value: Any) -> str:
    """A value in a line of YAML."""
    return json.dumps(value, ensure_ascii=False)


def _placed(result: Translation, source: Source) -> dict[Path, Comments]:
    """Comments by target path: those of the key that it was made of, of the sections around that, and of keys before it in
    the same section that left nothing."""
    target_of: dict[Path, Path] = {}
    for key, origin in result.origins.items():
        target_of.setdefault(origin, tuple(key.split(".")))
    sections = {tuple(key.split(".")[:depth]) for key in result.origins for depth in range(1, key.count(".") + 1)}
    placed: dict[Path, Comments] = {}
    waiting: list[tuple[Path, str]] = []
    for path, comments in source.comments.items():
        waiting += [(path, line) for line in comments.above]
        target = path if path in sections else target_of.get(path)
        if target is None:
            if comments.beside and any(origin[: len(path)] == path for origin in target_of):
                waiting.append((path, comments.beside))
            continue
        above = [line for of, line in waiting if path[: len(of) - 1] == of[:-1]]
        placed.setdefault(target, Comments(above, comments.beside))
        waiting = []
    for key, note in result.notes.items():
        found = placed.setdefault(tuple(key.split(".")), Comments())
        found.beside = "; ".join(filter(None, [found.beside, note]))
    return placed


def _mapping(data: Mapping[str, Any], notes: Mapping[Path, Comments], path: Path, depth: int) -> Any:
    from ruamel.yaml.comments import CommentedMap

    result = CommentedMap()
    for key, value in data.items():
        here = (*path, key)
        result[key] = _mapping(value, notes, here, depth + 1) if isinstance(value, Mapping) and value else _leaf(value)
        comments = notes.get(here, Comments())
        if comments.above:
            result.yaml_set_comment_before_after_key(key, before="\n".join(comments.above), indent=_INDENT * depth)
        if comments.beside:
            result.yaml_add_eol_comment(comments.beside, key, column=0)
    return result


def _leaf(value: Any) -> Any:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarstring import SingleQuotedScalarString

    if isinstance(value, str):
        return value if _reads_as_text(value) else SingleQuotedScalarString(value)
    if isinstance(value, list | tuple):
        items = CommentedSeq([_leaf(item) for item in value])
        items.fa.set_flow_style()
        return items
    if isinstance(value, Mapping):
        entries = CommentedMap({key: _leaf(below) for key, below in value.items()})
        entries.fa.set_flow_style()
        return entries
    return value


def _reads_as_text(value: str) -> bool:
    """True where a reader of YAML 1.1 takes the bare word for itself."""
    try:
        return bool(load_yaml(value) == value)
    except ValueError:
        return False
