"""JSON schemas of YAML files, for editors: the structures with the arguments of every registered component."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import PydanticJsonSchemaWarning

from upsr.config.components import argument_schema, resolve
from upsr.config.methods import NAMING, PACKAGE, Found, find_method, method_names
from upsr.config.problems import alternatives, section_of
from upsr.config.schema import CommonOptions, Component

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OF_BASICSR = ("CharbonnierLoss", "GANLoss", "L1Loss", "MSELoss", "UNetDiscriminatorSN", "VGGStyleDiscriminator")
"""basicsr's losses and discriminators. Its other networks, datasets and metrics do not fit this package's interfaces."""

_ARGUMENT = r"^    (\w[\w, ]*): (.*(?:\n     +.*)*)"
"""Names and description in a docstring's section ``Args``."""

_NULL = {"type": "null"}
_BASE = {"type": "string", "description": "Another file of this kind that this one changes, relative to it."}

Json = dict[str, Any]


def file_schema(
    model: type[BaseModel], registries: Mapping[str, Any], *, optional: Sequence[str] = (), based: bool = True
) -> Json:
    """JSON schema of a kind of YAML file.

    Args:
        registries: of components, by name.
        optional: keys that the program adds where a file leaves them out.
        based: a file may name a ``base``, and then needs no key and no ``type`` of its own.
    """
    result, definitions = _plain(model)
    for kind in sorted(_components(model), key=lambda kind: kind.__name__):
        definitions |= _component_definitions(kind, registries[kind.registry])
    needed = _needed(model, optional)
    properties = {"base": _BASE, **result["properties"]} if based else result["properties"]
    return {
        "$schema": _DIALECT,
        **{key: value for key, value in result.items() if key != "properties"},
        "properties": properties,
        **({"if": {"required": ["base"]}, "else": needed} if based else {"allOf": [needed]}),
        "$defs": dict(sorted(definitions.items())),
    }


def method_schema(name: str, registries: Mapping[str, Any]) -> Json:
    """JSON schema of a method's option files; sections of the other methods of this package may be null."""
    found = find_method({"method": name})
    schema = file_schema(found.options, registries)
    schema["title"] = f"Options of the method {name}"
    schema["properties"] |= _naming(name, found)
    schema["else"]["anyOf"] = [{"required": ["method"]}, {"required": ["model_type"]}]
    for other in method_names():
        if other != name:
            _allow_null(schema, schema, found.options, find_method({"method": other}).options, other)
    return schema


def _naming(name: str, found: Found) -> Json:
    """The keys that name the method, with their values."""
    home = inspect.getmodule(found.method)
    module = __import__(f"{PACKAGE}.{name}", fromlist=["NAMES"]) if name in method_names() else home
    phases, older = (getattr(module, key, {}) for key in ("TRAININGS", "NAMES"))
    values = {"method": [name], "phase": list(phases), "model_type": list(older)}
    about = {key: CommonOptions.model_fields[key].description for key in NAMING}
    known = {key: {"enum": values[key], "description": about[key]} for key in NAMING if values[key]}
    return {key: known.get(key, {"type": "string", "description": about[key]}) for key in NAMING}


def _plain(model: type[BaseModel]) -> tuple[Json, Json]:
    """A structure's schema and the definitions it refers to, without needed keys."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # defaults that JSON cannot hold
        schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    for section in (schema, *definitions.values()):
        section.pop("required", None)
        section["description"] = " ".join(section.get("description", "").split())
        for value in section.get("properties", {}).values():
            value.pop("title", None)
            if "$ref" in value:
                value.pop("default", None)  # a section's default follows from those of its keys
    return schema, definitions


def _components(annotation: Any, seen: set[Any] | None = None) -> set[type[Component]]:
    """The kinds of components in a structure."""
    seen = set() if seen is None else seen
    found: set[type[Component]] = set()
    for kind in alternatives(annotation):
        parts = get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
            seen.add(kind)
            found |= {kind} if issubclass(kind, Component) else set()
            parts = tuple(field.annotation for field in kind.model_fields.values())
        for part in parts:
            found |= _components(part, seen)
    return found


def _component_definitions(kind: type[Component], registry: Any) -> Json:
    """A component's section as a choice by ``type``, and the definitions that its choices refer to."""
    own, definitions = _plain(kind)
    variants = []
    for name, constructor in _usable(kind.registry, registry):
        arguments, more = _plain(argument_schema(constructor))
        definitions |= {key: value for key, value in more.items() if not key.endswith("Component")}
        about, described = documented(constructor)
        properties = {"type": {"const": name}, **{k: v for k, v in own["properties"].items() if k != "type"}}
        for key, value in arguments["properties"].items() if "properties" in arguments else ():
            properties[key] = {**value, "description": described[key]} if key in described else value
        variants.append(
            {"title": name, "description": about, "type": "object", "properties": properties}
            | {"required": ["type"], "additionalProperties": False}
        )
    path = {"type": "string", "pattern": r"\.", "description": own["properties"]["type"]["description"]}
    variants.append({"title": "module.Class", "properties": {"type": path}, "required": ["type"]})
    variants.append({"title": "changes of the base file's", "not": {"required": ["type"]}})
    section = {key: own[key] for key in ("description", "type", "properties")}
    return {kind.__name__: {"title": kind.registry, **section, "oneOf": variants}, **definitions}


def _usable(kind: str, registry: Any) -> Iterator[tuple[str, Any]]:
    """The registered components of this package and of installed packages, by name."""
    own = [name for name, found in registry.items() if found.__module__.startswith("upsr.") or name in _OF_BASICSR]
    installed = [point.name for point in entry_points(group=f"upsr.{kind}")]
    for name in sorted({*own, *installed}):
        yield name, resolve(registry, name)


def documented(constructor: Any) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring, and the arguments in its section ``Args`` and those of its base classes."""
    texts = [vars(kind).get("__doc__") for kind in reversed(inspect.getmro(constructor))]
    arguments: dict[str, str] = {}
    for text in (re.sub(r":\w+:`~?([^`]+)`", r"``\1``", inspect.cleandoc(text or "")) for text in texts):
        section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        for names, said in re.findall(_ARGUMENT, section[1], re.MULTILINE) if section else ():
            line = " ".join(said.split())
            arguments |= dict.fromkeys(names.split(", "), line[0].upper() + line[1:])
    return " ".join(text.split("\n\n")[0].split()), arguments


def _needed(model: type[BaseModel], optional: Sequence[str] = ()) -> Json:
    """The keys that a section needs, and the sections in it need."""
    if issubclass(model, Component):
        return {"required": ["type"]}
    below = {}
    for key, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section and (needed := _needed(section)):
            holders = {get_origin(kind) for kind in alternatives(field.annotation)}
            holder = "additionalProperties" if dict in holders else "items" if list in holders else None
            below[key] = {holder: needed} if holder else needed
    required = [key for key, field in model.model_fields.items() if field.is_required() and key not in optional]
    return ({"required": required} if required else {}) | ({"properties": below} if below else {})


def _allow_null(section: Json, schema: Json, own: type[BaseModel], other: type[BaseModel], name: str) -> None:
    """Add the keys of another method to a section and those in it."""
    for key, field in other.model_fields.items():
        if key not in own.model_fields:
            about = f"A key of the method {name}. Null leaves out what a base file says."
            section["properties"].setdefault(key, {**_NULL, "description": about})
            continue
        ours, theirs = section_of(own.model_fields[key].annotation), section_of(field.annotation)
        if ours and theirs and ours is not theirs and not issubclass(ours, Component):
            _allow_null(schema["$defs"][ours.__name__], schema, ours, theirs, name)
