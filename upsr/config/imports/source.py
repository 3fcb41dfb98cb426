"""Reads an option file of another project: its values, and which comment stands at which key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node

from upsr.config.imports.rules import Path
from upsr.config.yaml_text import load_yaml
from upsr.errors import UpsrError
from upsr.text import read_text

_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
_FOR_EDITORS = "yaml-language-server"


@dataclass
class Comments:
    """Comments of a key, without ``#``.

    Attributes:
        above: lines before it.
        beside: the rest of its line.
    """

    above: list[str] = field(default_factory=list)
    beside: str = ""


@dataclass(frozen=True)
class Source:
    """An option file of another project.

    Attributes:
        comments: by key.
        tail: comments after the last key.
    """

    data: dict[str, Any]
    comments: Mapping[Path, Comments]
    tail: list[str]


def read_source(path: str | File) -> Source:
    """Read a file. Types that YAML has and option files have not are taken for texts, lists and mappings; ``${a.b}`` is
    replaced by the value of that key.

    Raises:
        UpsrError: it is missing or no YAML mapping.
    """
    try:
        text = read_text(path)
        data = load_yaml(text, any_tag=True)
    except FileNotFoundError:
        raise UpsrError(f"{path}: no such option file") from None
    except ValueError as error:
        raise UpsrError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict) or not data:
        raise UpsrError(f"{path}: an option file is a mapping of keys to values")
    return Source(_interpolated(data, data), *_comments(text))


def _interpolated(value: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    if isinstance(value, Mapping):
        return {key: _interpolated(below, root, depth) for key, below in value.items()}
    if isinstance(value, list):
        return [_interpolated(below, root, depth) for below in value]
    found = _INTERPOLATION.fullmatch(value) if isinstance(value, str) and depth < 10 else None
    if found is None:
        return value
    named: Any = root
    for key in found[1].split("."):
        if not isinstance(named, Mapping) or key not in named:
            return value
        named = named[key]
    return _interpolated(named, root, depth + 1)


def _comments(text: str) -> tuple[dict[Path, Comments], list[str]]:
    """Comments by key, and those after the last one."""
    lines = text.split("\n")
    ends: dict[int, int] = {}  # of the tokens on each line
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if token.end_mark.index > token.start_mark.index:  # others mark the end of a section, somewhere below it
            for line in range(token.start_mark.line, token.end_mark.line):
                ends[line] = len(lines[line])
            if token.end_mark.column:
                ends[token.end_mark.line] = max(token.end_mark.column, ends.get(token.end_mark.line, 0))
    found: dict[Path, Comments] = {}
    claimed = -1  # the last line whose comments have been given to a key
    for path, line in _keys(yaml.compose(text, Loader=yaml.SafeLoader), ()):
        if line <= claimed:
            continue
        start = next((above + 1 for above in range(line - 1, claimed, -1) if above in ends), claimed + 1)
        found[path] = Comments(_texts(lines[start:line]), _text(lines[line][ends[line] :]))
        claimed = line
    last = max(ends, default=-1)
    return found, _texts(lines[last + 1 :])


def _keys(node: Node | None, path: Path) -> Iterator[tuple[Path, int]]:
    """Keys of a document in its order, with their lines."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line
            if value.start_mark.line >= key.start_mark.line:  # an alias stands for what is elsewhere
                yield from _keys(value, (*path, key.value))


def _texts(lines: list[str]) -> list[str]:
    return [text for line in lines if (text := _text(line)) and _FOR_EDITORS not in text]


def _text(line: str) -> str:
    stripped = line.strip()
    return stripped.lstrip("#").removeprefix(" ").rstrip() if stripped.startswith("#") else ""
