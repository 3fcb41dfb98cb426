"""Keys of an option file that belong to another method than its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from upsr.config.methods import UnknownMethodError, find_method, method_names
from upsr.config.problems import alternatives


@dataclass(frozen=True)
class Foreign:
    """A key that other methods have.

    Attributes:
        location: keys from the outermost section on.
        owners: names of the methods.
    """

    location: tuple[str, ...]
    value: Any
    owners: tuple[str, ...]


def foreign_keys(data: Mapping[str, Any], schema: type[BaseModel]) -> list[Foreign]:
    """The keys that ``schema`` does not have and another method of this package has."""
    if not any(True for _ in _unknown(data, schema)):
        return []  # the usual case: no other method is imported
    others = {name: find_method({"method": name}).options for name in method_names()}
    found = []
    for location, value in _unknown(data, schema):
        if owners := tuple(name for name, other in others.items() if _has(other, location)):
            found.append(Foreign(location, value, owners))
    return found


def own_part(data: Mapping[str, Any], naming: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options without the keys of other methods; as they are if they name no method.

    Args:
        naming: options that name the method; by default ``data``.
    """
    try:
        schema = find_method(data if naming is None else naming).options
    except UnknownMethodError:
        return dict(data)
    result = dict(data)
    for foreign in foreign_keys(data, schema):
        result = _without(result, foreign.location)
    return result


def _unknown(
    data: Mapping[str, Any], schema: type[BaseModel], where: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys that a structure does not have, in sections that refuse them."""
    for key, value in data.items():
        field = schema.model_fields.get(key)
        if field is None:
            yield (*where, key), value
        elif isinstance(value, Mapping) and (section := _plain_section(field.annotation)):
            yield from _unknown(value, section, (*where, key))


def _plain_section(annotation: Any) -> type[BaseModel] | None:
    sections = (kind for kind in alternatives(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next((section for section in sections if section.model_config.get("extra") == "forbid"), None)


def _has(schema: type[BaseModel], location: tuple[str, ...]) -> bool:
    section: type[BaseModel] | None = schema
    for key in location:
        field = section.model_fields.get(key) if section else None
        if field is None:
            return False
        section = _plain_section(field.annotation)
    return True


def _without(data: Mapping[str, Any], location: tuple[str, ...]) -> dict[str, Any]:
    key, *below = location
    if not below:
        return {name: value for name, value in data.items() if name != key}
    return {**data, key: _without(data[key], tuple(below))}
