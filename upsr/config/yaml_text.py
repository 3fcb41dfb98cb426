"""YAML as option files are written in it: what stands there is what is meant.

A subset that JSON could hold: mappings with words for keys, lists, texts, whole and decimal numbers, true and false, null.
Against YAML 1.1, which PyYAML reads: a key is a text whatever it looks like (``on``, ``010``), a date is a text, ``010`` is
ten and ``1:30`` a text, ``1e-4`` and ``-.5`` are numbers, and a key given twice is refused. Anchors, aliases and merges
(``<<``) work as there.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_DEEPEST = 50
_LARGEST = 100_000
_TAG = "tag:yaml.org,2002:"


def load_yaml(text: str, *, any_tag: bool = False) -> Any:
    """The content of a YAML document.

    Args:
        any_tag: values of other types (``!!python/tuple``) are read as the texts, lists and mappings that stand there.

    Raises:
        ValueError: it is none, or holds what an option file cannot; the message is one line.
    """
    try:
        return yaml.load(text, Loader=_AnyTagLoader if any_tag else _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = _one_line(": ".join(filter(None, [error.context, error.problem])))
        raise ValueError(where + problem + (_unspaced(text, mark.line) if mark else "")) from None
    except yaml.YAMLError as error:
        raise ValueError(_one_line(str(error))) from None
    except (ValueError, KeyError) as error:  # of Python's own readers of numbers and truth values
        raise ValueError(f"a value does not fit its type ({_one_line(str(error))})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def dump_yaml(data: Any) -> str:
    """YAML that :func:`load_yaml`, and any reader of YAML 1.1, takes for ``data``."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def _one_line(message: str) -> str:
    tab = "; indent with spaces" if r"'\t'" in message else ""
    return " ".join(message.split()) + tab


def _unspaced(text: str, line: int) -> str:
    """The ending of a message: the line with a mistake, or the one before it, has no space after the colon of its key."""
    lines = text.splitlines()
    for number in (line - 1, line):
        found = re.match(r"\s*([\w.]+):([^\s:/\\].*)", lines[number]) if 0 <= number < len(lines) else None
        if found:
            return f"; write a space after the colon in line {number + 1}: {found[1]}: {found[2].strip()}"
    return ""


class _Loader(yaml.SafeLoader):
    """Builds the types above and no others."""

    def get_single_node(self) -> Node | None:
        """The document's node, checked, with its keys made texts."""
        node = super().get_single_node()
        if node is not None:
            _Check().measure(node)
        return node

    def integer(self, node: ScalarNode) -> int:
        """A whole number: decimal also with leading zeros, or 0x and 0b."""
        text = self.construct_scalar(node).replace("_", "").lower()
        return int(text, 0) if re.match(r"[-+]?0[xb]", text) else int(text)

    def decimal(self, node: ScalarNode) -> float:
        """A decimal number."""
        value = float(
            self.construct_scalar(node).replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
        )
        if not math.isfinite(value):
            raise ConstructorError(None, None, f"{node.value} is no finite number", node.start_mark)
        return value

    def unknown(self, node: Node) -> Any:
        """A type that has no place in an option file."""
        raise _refused(f"values of type {node.tag.replace(_TAG, '!!')} have no place here", node)


class _AnyTagLoader(_Loader):
    """Reads over tags that it does not know."""

    def unknown(self, node: Node) -> Any:
        """The value without its tag."""
        if isinstance(node, SequenceNode):
            return self.construct_sequence(node, deep=True)
        if isinstance(node, MappingNode):
            return self.construct_mapping(node, deep=True)
        assert isinstance(node, ScalarNode)
        return self.construct_scalar(node)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either kind of reader would take for something else."""


class _Check:
    """Goes through a document's nodes once, however often aliases name them."""

    def __init__(self) -> None:
        self._measured: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def measure(self, node: Node) -> tuple[int, int]:
        """Number of values in a node and depth of its nesting, with aliases written out."""
        if id(node) in self._measured:
            return self._measured[id(node)]
        if id(node) in self._open:
            raise _refused("an alias stands inside what it names", node)
        self._open.add(id(node))
        below = [self.measure(child) for child in self._children(node)]
        size, depth = 1 + sum(s for s, _ in below), 1 + max((d for _, d in below), default=0)
        if size > _LARGEST or depth > _DEEPEST:
            raise _refused("it is nested too deeply, or its aliases stand for too much", node)
        self._open.remove(id(node))
        self._measured[id(node)] = (size, depth)
        return size, depth

    def _children(self, node: Node) -> list[Node]:
        if isinstance(node, ScalarNode):
            if "\0" in node.value:
                raise _refused("a text holds a zero byte", node)
            return []
        if isinstance(node, SequenceNode):
            return node.value
        seen: set[str] = set()
        for key, _ in node.value:
            name = _as_text(key)
            if name in seen:
                raise _refused(f"'{name}' is given twice", key)
            seen.add(name)
        return [value for _, value in node.value]


def _as_text(key: Node) -> str:
    """Makes a key a text, but for a merge; returns it."""
    if not isinstance(key, ScalarNode):
        raise _refused("a key is one word, not a list or mapping", key)
    if key.tag != f"{_TAG}merge":
        key.tag = f"{_TAG}str"
    return key.value


def _refused(problem: str, node: Node) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """What plain words are, by their first letter."""
    kinds = [
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
        ("int", r"[-+]?(\d[\d_]*|0[xX][\da-fA-F_]+|0[bB][01_]+)", list("-+0123456789")),
        (
            "float",
            r"[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF|nan|NaN|NAN))",
            list("-+.0123456789"),
        ),
        ("merge", r"<<", ["<"]),
    ]
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, pattern, firsts in kinds:
        for first in firsts:
            table.setdefault(first, []).append((_TAG + kind, re.compile(rf"^(?:{pattern})$", re.ASCII)))
    return table


_Loader.yaml_implicit_resolvers = _resolvers()
_Loader.yaml_constructors = {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}bool": yaml.SafeLoader.construct_yaml_bool,
    f"{_TAG}int": _Loader.integer,
    f"{_TAG}float": _Loader.decimal,
    f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
    None: _Loader.unknown,
}
_AnyTagLoader.yaml_constructors = {**_Loader.yaml_constructors, None: _AnyTagLoader.unknown}
_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}
