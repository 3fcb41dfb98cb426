"""Checks the options of registered components against their constructors, and builds them."""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from upsr.config.problems import Problem, alternatives, did_you_mean, problems_of
from upsr.config.schema import Component
from upsr.errors import UpsrError

_REFUSALS = (ValueError, TypeError, ArithmeticError, AssertionError, LookupError, RuntimeError)
"""What constructors of networks, losses and metrics raise at numbers that make no sense."""


_BASES = {
    "arch": ("torch.nn.modules.module.Module",),
    "loss": ("torch.nn.modules.module.Module",),
    "metric": ("upsr.metrics.base.Metric",),
    "dataset": ("torch.utils.data.dataset.Dataset",),
}
"""Bases of a class that is named by its path, by the registry's name: an option file may not call just anything."""


class UnknownTypeError(LookupError):
    """A name that means no component; the message is for the user."""


def resolve(registry: Any, type_name: str) -> Any:
    """The class that a name means: a registered one, an installed package's entry point in the group ``upsr.arch``,
    ``upsr.loss``, ``upsr.metric`` or ``upsr.dataset``, or a class by its path ``package.module.Class``.

    Raises:
        UnknownTypeError: there is none.
    """
    bases = _BASES.get(registry.name)
    if bases and "." in type_name:
        return checked_class(imported(type_name), bases, type_name)
    if type_name in registry:
        return registry[type_name]
    if bases:
        for point in entry_points(group=f"upsr.{registry.name}", name=type_name):
            return checked_class(point.load(), bases, type_name)
    raise UnknownTypeError(f"unknown type '{type_name}'" + did_you_mean(type_name, registry.keys()))


def imported(path: str) -> Any:
    """The module or class at a path, looked for in the current folder too.

    Raises:
        UnknownTypeError: there is none, or importing it fails.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            module, _, name = path.rpartition(".")
            if not module or error.name not in (path, module):  # an import of the user's own module may fail, too
                raise
            return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise UnknownTypeError(f"'{path}' cannot be imported ({type(error).__name__}: {error})") from error


def checked_class(found: Any, bases: tuple[str, ...], name: str) -> type:
    """``found``, which has to be a class derived from one of ``bases``, given by qualified names.

    Raises:
        UnknownTypeError: it is not.
    """
    if set(bases) & {f"{parent.__module__}.{parent.__qualname__}" for parent in getattr(found, "__mro__", ())}:
        checked: type = found
        return checked
    raise UnknownTypeError(f"'{name}' is no class that derives from {' or '.join(bases)}")


def components_in(schema: Any, data: Any, where: str = "") -> Iterator[tuple[str, type[Component], Mapping[str, Any]]]:
    """The sections of components in options, with their keys, those of a section before those of the sections in it.

    Args:
        schema: annotation of ``data``.
        data: options as read; what does not fit the schema is passed over.
    """
    kinds = [kind for kind in alternatives(schema) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if isinstance(data, Mapping):
        for kind in kinds:
            if issubclass(kind, Component):
                yield where, kind, data
                return
            fields = {key: field.annotation for key, field in kind.model_fields.items() if key in data}
            direct = {key: note for key, note in fields.items() if any(map(_is_component, alternatives(note)))}
            for key, note in {**direct, **fields}.items():
                yield from components_in(note, data[key], f"{where}.{key}" if where else key)
        for values in (typing.get_args(kind)[1] for kind in alternatives(schema) if typing.get_origin(kind) is dict):
            for key, value in data.items():
                yield from components_in(values, value, f"{where}.{key}")


def all_component_problems(registries: Mapping[str, Any], schema: Any, data: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything that is wrong with the components in options, whatever else may be.

    Args:
        registries: by name.
        schema, data: as :func:`components_in` takes them.
    """
    for where, kind, raw in components_in(schema, data):
        if isinstance(raw.get("type"), str):
            yield from component_problems(registries[kind.registry], kind.model_construct(**raw), where)


def _is_component(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Component)


def component_problems(registry: Any, component: Component, where: str) -> Iterator[Problem]:
    """What is wrong with the options of a component, and of those of its kind in them: a name, a key, a type, a missing key."""
    try:
        constructor = resolve(registry, component.type)
    except UnknownTypeError as error:
        yield Problem(f"{where}.type", str(error))
        return
    schema = argument_schema(constructor)
    yield from problems_of(schema, component.arguments, where)
    for inside, kind, raw in components_in(schema, component.arguments, where):
        if kind.registry == registry.name and isinstance(raw.get("type"), str):
            yield from component_problems(registry, kind.model_construct(**raw), inside)


def build(registry: Any, component: Component, **context: Any) -> Any:
    """The component, from its options and what the program adds to them.

    The options have been checked by :func:`component_problems`; lists become tuples where the constructor says so.

    Raises:
        UpsrError: the values do not go together, which only the constructor can know.
    """
    constructor = resolve(registry, component.type)
    arguments = argument_schema(constructor).model_validate(component.arguments, strict=False)
    given = {key: getattr(arguments, key) for key in component.arguments}
    try:
        return constructor(**given, **context)
    except _REFUSALS as error:
        reason = " ".join(str(error).split())
        raise UpsrError(
            f"{component.type}: cannot be built from these options: {type(error).__name__}: {reason[:200]}"
        ) from error


def argument_schema(constructor: Any) -> type[BaseModel]:
    """The arguments of a constructor as a structure."""
    signature = inspect.signature(constructor)
    hints = typing.get_type_hints(
        constructor.__init__ if inspect.isclass(constructor) else constructor, include_extras=True
    )
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(constructor.__name__, __config__=config, **fields)
