"""Turns what a schema refuses into messages that name the key, what is wrong, and the nearest valid name."""

from __future__ import annotations

import difflib
import itertools
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union

from pydantic import BaseModel, ValidationError

_SHOULD_BE = "input should be "
_SECTION_TYPES = ("model_type", "model_attributes_type", "dict_type")
"""pydantic's names of the problem that something else stands in the place of a section."""
_UNSPACED = re.compile(r"([\w.]+):(\S.*)")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an option file."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or the valid names where none is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; valid are {', '.join(names)}" if names else ""


def problems_of(schema: type[BaseModel], data: Mapping[str, Any], where: str = "") -> Iterator[Problem]:
    """All problems of ``data`` under ``schema``. Types are strict as JSON's are: "4" is no number, [1, 2] is a tuple."""
    try:
        schema.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        found = [_problem(schema, item, where) for item in error.errors()]
        for key, same in itertools.groupby(found, lambda problem: problem.key):  # a union has one for each of its types
            yield Problem(key, _joined([problem.message for problem in same]))


def _joined(messages: list[str]) -> str:
    """One message of those of a union's types: they differ in what the value should be."""
    first, *others = messages
    if not all(message.startswith(_SHOULD_BE) for message in messages):
        return "; ".join(messages)
    wanted = [message.removeprefix(_SHOULD_BE).partition(" (found")[0] for message in others]
    should, found, value = first.partition(" (found")
    return " or ".join([should, *wanted]) + found + value


def _problem(schema: type[BaseModel], item: Any, where: str) -> Problem:
    location = [str(part) for part in item["loc"]]
    key = ".".join(([where] if where else []) + _without_type_tags(schema, location))
    if item["type"] == "extra_forbidden":
        return Problem(key, "unknown key" + did_you_mean(location[-1], _valid_keys(schema, location[:-1])))
    if item["type"] == "missing":
        return Problem(key, "this key is needed")
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if item["type"] == "value_error" and not key:
        return Problem("file", message)
    shown = repr(item["input"])
    if item["type"] != "value_error" and len(shown) <= 60:
        message += f" (found {shown}){_remedy(schema, location, item['type'], item['input'])}"
    return Problem(key, message)


def _remedy(schema: type[BaseModel], location: list[str], kind: str, value: Any) -> str:
    """The ending of a message about a value of another type: how the value is written that is probably meant."""
    if kind in _SECTION_TYPES and isinstance(value, str):
        if spaced := _UNSPACED.fullmatch(value):
            return f"; write a space after the colon: {spaced[1]}: {spaced[2]}"
        of_type = kind != "dict_type" and "type" in _valid_keys(schema, location)
        return f"; write {{type: {value}}}" if of_type else "; its keys stand below it, each in a line of its own"
    if isinstance(value, bool) and kind != "bool_type":
        return "; YAML reads yes, no, on and off as true and false"
    if kind.startswith("int") and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if kind.startswith(("int", "float")) and isinstance(value, str) and _NUMBER.fullmatch(value):
        return f"; write {value} without quotes"
    return ""


def alternatives(annotation: Any) -> list[Any]:
    """The types of a union without its annotations, or the one type that an annotation is."""
    if typing.get_origin(annotation) is Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, UnionType):
        return [kind for part in typing.get_args(annotation) for kind in alternatives(part)]
    return [annotation]


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The (only) section among an annotation's alternatives, those of a mapping's values included."""
    for kind in alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        if (arguments := typing.get_args(kind)) and (section := section_of(arguments[-1])):
            return section
    return None


def _valid_keys(schema: type[BaseModel], location: list[str]) -> list[str]:
    section = schema
    for part in location:
        field = section.model_fields.get(part)
        section = (section_of(field.annotation) if field else None) or section
    return list(section.model_fields)


def _without_type_tags(schema: type[BaseModel], location: list[str]) -> list[str]:
    """pydantic puts the tried alternative of a union into the location; users wrote no such key."""
    tags = {"int", "float", "str", "bool", "literal['auto']", "none", "constrained-int", "constrained-float", "[key]"}
    return [part for index, part in enumerate(location) if index == 0 or part.lower() not in tags]
