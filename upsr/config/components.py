"""Checks the options of registered components against their constructors, and builds them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from upsr.config.problems import Problem, did_you_mean, problems_of
from upsr.config.schema import Component
from upsr.errors import UpsrError

_REFUSALS = (ValueError, TypeError, ArithmeticError, AssertionError, LookupError, RuntimeError)
"""What constructors of networks, losses and metrics raise at numbers that make no sense."""


def resolve(registry: Any, type_name: str) -> Any:
    """The registered class, or ``KeyError``. (basicsr's own ``get`` prints when a name is missing.)"""
    if type_name in registry:
        return registry.get(type_name)
    raise KeyError(type_name)


def component_problems(registry: Any, component: Component, where: str) -> Iterator[Problem]:
    """What is wrong with a component's options: its name, a key, a type, or a missing key."""
    try:
        constructor = resolve(registry, component.type)
    except KeyError:
        yield Problem(
            f"{where}.type", f"unknown type '{component.type}'" + did_you_mean(component.type, registry.keys())
        )
        return
    yield from problems_of(_argument_schema(constructor), component.arguments, where)


def build(registry: Any, component: Component, **context: Any) -> Any:
    """The component, from its options and what the program adds to them.

    The options have been checked by :func:`component_problems`; lists become tuples where the constructor says so.

    Raises:
        UpsrError: the values do not go together, which only the constructor can know.
    """
    constructor = resolve(registry, component.type)
    arguments = _argument_schema(constructor).model_validate(component.arguments, strict=False)
    given = {key: getattr(arguments, key) for key in component.arguments}
    try:
        return constructor(**given, **context)
    except _REFUSALS as error:
        reason = " ".join(str(error).split())
        raise UpsrError(
            f"{component.type}: cannot be built from these options: {type(error).__name__}: {reason[:200]}"
        ) from error


def _argument_schema(constructor: Any) -> type[BaseModel]:
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
