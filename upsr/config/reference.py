"""The reference page of option files, from their JSON schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upsr.config.methods import NAMING

Json = dict[str, Any]

_TITLES = {"arch": "network"}
"""Names of registries that are not in a user's words."""

_HEAD = """# Options

Written by `upsr options docs --out docs/options.md` from the structures that check the files; change those, not this page.
An editor with a YAML language server completes and checks a file that names its schema (`options/schema/`) in its first line.

Every file but `tables` may name a `base`: a file of the same kind, relative to it, whose values it changes section by section.
A component (a network, a dataset, a loss, a metric) is a `type` and the arguments of that type; another `type` replaces the
whole section of the base file. `null` for a data set or metric leaves out the one of the base file.

A file that names another method than its base file inherits the sections that its own method has. A section of another method is
refused, unless it is `null`. `--force-yml train.total_iter=1000` changes single keys from the command line.
"""


def reference_page(schemas: Mapping[str, Json], methods: Sequence[str], about: Mapping[str, str]) -> str:
    """The page.

    Args:
        schemas: by kind.
        methods: the kinds that are methods.
        about: a sentence for each kind.
    """
    shared = _shared([schemas[name] for name in methods])
    parts = [_HEAD, "## Options of every method\n", *_sections(_joint(schemas, methods), shared, own=False)]
    for name in methods:
        own = list(_sections(schemas[name], shared)) or ["It has no keys of its own.\n"]
        parts += [f"## Options of the method {name}\n", f"{about[name]} {_trainings(schemas[name])}\n", *own]
    components: Json = {}
    for name, schema in schemas.items():
        components |= {value["title"]: value for value in schema["$defs"].values() if "oneOf" in value}
        if name not in methods:
            parts += [f"## Files of the kind {name}\n", f"{about[name]}\n", *_sections(schema)]
    for title, component in sorted(components.items()):
        parts += [f"## {_TITLES.get(title, title).capitalize()} types\n", *_types(component, schemas)]
    return "\n".join(parts).rstrip() + "\n"


def _joint(schemas: Mapping[str, Json], methods: Sequence[str]) -> Json:
    """The first method's schema, with the names of all methods as values of the keys that name one."""
    first = schemas[methods[0]]
    properties = dict(first["properties"])
    for key in NAMING:
        values = dict.fromkeys(value for name in methods for value in schemas[name]["properties"][key].get("enum", []))
        properties[key] = {**properties[key], "enum": list(values)}
    return {**first, "properties": properties}


def _trainings(schema: Json) -> str:
    """The values of the keys that choose a training."""
    phases, older = (schema["properties"][key].get("enum", []) for key in ("phase", "model_type"))
    return (
        f"Trainings (`phase`): {', '.join(phases) or 'none'}. Older names (`model_type`): {', '.join(older) or 'none'}."
    )


def _shared(schemas: Sequence[Json]) -> frozenset[str]:
    """Keys, with their sections before them, that all the schemas have."""
    keys = [{path for path, value in _all_keys(schema) if value.get("type") != "null"} for schema in schemas]
    return frozenset(set.intersection(*keys))


def _all_keys(schema: Json) -> Iterator[tuple[str, Json]]:
    for path, section, _ in _walk(schema):
        yield from ((f"{path}.{key}".lstrip("."), value) for key, value in section["properties"].items())


def _walk(schema: Json) -> Iterator[tuple[str, Json, str]]:
    """Path, schema and description of every section with keys of its own, outer sections first."""
    pending = [("", schema, "")]
    while pending:
        path, section, about = pending.pop(0)
        yield path, section, about
        below = []
        for key, value in section["properties"].items():
            for name, holder in _references(value):
                definition = schema["$defs"][name]
                if definition.get("properties", {}).keys() - {"type"} or _is_section(definition):
                    below.append((f"{path}.{key}{holder}".lstrip("."), definition, definition["description"]))
        pending = below + pending


def _references(value: Any, holder: str = "") -> Iterator[tuple[str, str]]:
    """Names of the definitions that a value may be of, and what follows its key: a name in a mapping, a place in a list."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2], holder
        for choice in value.get("anyOf", []):
            yield from _references(choice, holder)
        yield from _references(value.get("additionalProperties"), f"{holder}.NAME")
        yield from _references(value.get("items"), f"{holder}[]")


def _is_section(definition: Json) -> bool:
    return "properties" in definition and "oneOf" not in definition


def _sections(schema: Json, shared: frozenset[str] = frozenset({"base"}), *, own: bool = True) -> Iterator[str]:
    """Tables of the keys that are not, or else those that are, among ``shared``."""
    for path, section, about in _walk(schema):
        keys = {
            key: value
            for key, value in section["properties"].items()
            if (f"{path}.{key}".lstrip(".") not in shared) == own and value.get("type") != "null"
        }
        if keys:
            heading = [f"### `{path}`\n", f"{about}\n"] if path else []
            yield from (*heading, *_table(keys, schema["$defs"]), "")


def _table(keys: Mapping[str, Json], definitions: Json) -> Iterator[str]:
    yield "| key | value | default | |"
    yield "| --- | --- | --- | --- |"
    for key, value in keys.items():
        default = f"`{_written(value['default'])}`" if "default" in value and not _nested(value, definitions) else ""
        yield f"| `{key}` | {_cell(_kind(value, definitions))} | {_cell(default)} | {_cell(value.get('description', ''))} |"


def _nested(value: Json, definitions: Json) -> bool:
    return any(_is_section(definitions[name]) for name, _ in _references(value))


def _kind(value: Json, definitions: Json) -> str:
    """The values that a schema allows, in words."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_kind(choice, definitions) for choice in value["anyOf"]))
    if "$ref" in value:
        definition = definitions[value["$ref"].rpartition("/")[2]]
        if _is_section(definition):
            return "section"
        return f"a {_TITLES.get(definition['title'], definition['title'])}"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{_written(choice)}`" for choice in value.get("enum", [value.get("const")]))
    kind: str = value.get("type", "anything")
    if kind == "array":
        items = value.get("prefixItems")
        if items:
            return f"list of {len(items)}: {_kind(items[0], definitions)}"
        return f"list of {_kind(value.get('items', {}), definitions)}"
    if kind == "object":
        values = value.get("additionalProperties")
        return f"mapping to {_kind(values, definitions)}" if isinstance(values, dict) and values else "mapping"
    words = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " ".join(
        [words.get(kind, kind), *(f"{sign} {_written(value[key])}" for key, sign in bounds.items() if key in value)]
    )


def _types(component: Json, schemas: Mapping[str, Json]) -> Iterator[str]:
    """A heading, the description and the arguments of each type of a component."""
    definitions = {name: value for schema in schemas.values() for name, value in schema["$defs"].items()}
    for variant in component["oneOf"]:
        if "const" in variant.get("properties", {}).get("type", {}):
            yield from (f"### `{variant['title']}`\n", f"{variant['description']}\n")
            arguments = {
                key: value for key, value in variant["properties"].items() if key not in component["properties"]
            }
            if arguments:
                yield from (*_table(arguments, definitions), "")


def _written(value: Any) -> str:
    """A value as an option file holds it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
