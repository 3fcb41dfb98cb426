"""Finds a method by the name or path that options give; nothing of a method is imported before it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from upsr.config.components import UnknownTypeError, checked_class, imported
from upsr.config.problems import did_you_mean
from upsr.config.schema import CommonOptions

PACKAGE = "upsr.methods"
"""Its folders are methods, by their names."""

NAMING = ("method", "phase", "model_type")
"""Keys of an option file that say which method and training it is of."""

_METHOD, _TRAINING = f"{PACKAGE}.base.Method", f"{PACKAGE}.base.Training"


class UnknownMethodError(LookupError):
    """Options that name no method; the message is for the user.

    Attributes:
        key: of the options.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Found:
    """A method and one of its trainings.

    Attributes:
        name: as options give it; the folder's name for an older ``model_type``.
        method: subclass of :class:`upsr.methods.base.Method`.
        training: subclass of :class:`upsr.methods.base.Training`; ``None`` where the method has none.
    """

    name: str
    method: Any
    training: Any | None

    @property
    def options(self) -> type[CommonOptions]:
        """Structure of the method's option files."""
        options: type[CommonOptions] = self.method.Options
        return options


def find_method(naming: Mapping[str, Any]) -> Found:
    """The method that options name.

    Args:
        naming: options; of them ``method``, ``phase`` and ``model_type`` are read.

    Raises:
        UnknownMethodError: they name none.
    """
    for key in NAMING:
        if not isinstance(naming.get(key), str | None):
            raise UnknownMethodError(key, f"input should be a valid string (found {naming[key]!r})")
    method, phase, model_type = (naming.get(key) for key in NAMING)
    if method is not None and model_type is not None:
        raise UnknownMethodError("model_type", f"method: {method} is given too; remove model_type, the older key")
    if method is not None:
        return _with_phase(method, _at(method), phase)
    if model_type is None:
        raise UnknownMethodError("method", "this key is needed" + did_you_mean("", method_names()))
    if phase is not None:
        raise UnknownMethodError("phase", f"it goes with method; write method in place of model_type: {model_type}")
    return _of_model_type(model_type)


def method_of(opt: CommonOptions) -> Found:
    """The method of options that have been checked."""
    return find_method({key: getattr(opt, key) for key in NAMING})


def method_names() -> list[str]:
    """Names of the methods of this package, sorted."""
    package = importlib.util.find_spec(PACKAGE)
    folders = package.submodule_search_locations if package else None
    return sorted(module.name for module in pkgutil.iter_modules(folders) if module.ispkg)


def commands_of(name: str) -> Mapping[str, tuple[str, str]]:
    """Sub-commands that a method states as ``COMMANDS``, by name: the module of each, and its use in a line.

    Args:
        name: as ``method`` in options.

    Raises:
        UnknownMethodError: there is no such method.
    """
    found = _at(name)
    module = found if isinstance(found, ModuleType) else importlib.import_module(found.__module__)
    commands: Mapping[str, tuple[str, str]] = getattr(module, "COMMANDS", {})
    return commands


def _of_model_type(name: str) -> Found:
    older: dict[str, tuple[str, str]] = {}
    for folder in method_names():
        names: Mapping[str, str] = getattr(_folder(folder), "NAMES", {})
        older |= {old: (folder, phase) for old, phase in names.items()}
    if name in older:
        folder, phase = older[name]
        return _with_phase(folder, _folder(folder), phase)
    try:
        points = [] if "." in name else entry_points(group="upsr.model", name=name)
        for found in [imported(name)] if "." in name else [point.load() for point in points]:
            return _of_class(name, checked_class(found, (_METHOD, _TRAINING), name), None)
    except UnknownTypeError as error:
        raise UnknownMethodError("model_type", str(error)) from error
    raise UnknownMethodError("model_type", f"unknown model '{name}'" + did_you_mean(name, older))


def _folder(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def _at(name: str) -> Any:
    """The module or class that a value of ``method`` means."""
    if name in method_names():
        return _folder(name)
    for point in entry_points(group="upsr.method", name=name):
        return point.load()
    try:
        return imported(name)
    except UnknownTypeError as error:
        near = "" if "." in name else did_you_mean(name, method_names())
        raise UnknownMethodError("method", str(error) + near) from error


def _with_phase(name: str, found: Any, phase: str | None) -> Found:
    if not isinstance(found, ModuleType):
        try:
            return _of_class(name, checked_class(found, (_METHOD, _TRAINING), name), phase)
        except UnknownTypeError as error:
            raise UnknownMethodError("method", str(error)) from error
    training = _training_in(found, name, phase)
    return Found(name, _method_in(found, name, training), training)


def _of_class(name: str, found: type, phase: str | None) -> Found:
    """The method that a class is, with the training beside it; or that a training is of."""
    module = importlib.import_module(found.__module__)
    if _derives(found, _TRAINING):
        return Found(name, _method_in(module, name, found), found)
    return Found(name, found, _training_in(module, name, phase))


def _method_in(module: ModuleType, name: str, training: Any | None) -> Any:
    """The method that a training is of, or that a module states or holds."""
    stated = getattr(training, "METHOD", None) or getattr(module, "METHOD", None)
    if stated is not None:
        return _loaded(stated)
    classes = _classes(module, _METHOD)
    if len(classes) != 1:
        raise UnknownMethodError(
            "method", f"{name} has {len(classes)} classes that derive from {_METHOD}; state one of them as METHOD"
        )
    return classes[0]


def _training_in(module: ModuleType, name: str, phase: str | None) -> Any | None:
    """The training of a phase that a module states, or the one it holds."""
    phases: Mapping[str, Any] | None = getattr(module, "TRAININGS", None)
    if phases is None:
        classes = _classes(module, _TRAINING)
        if len(classes) > 1:
            raise UnknownMethodError("method", f"{name} has {len(classes)} trainings; state TRAININGS, by phase")
        phases = {found.__name__: found for found in classes}
    if phase is None:
        return _loaded(next(iter(phases.values()))) if phases else None
    if phase not in phases:
        raise UnknownMethodError("phase", f"{name} has no training '{phase}'" + did_you_mean(phase, phases))
    return _loaded(phases[phase])


def _loaded(stated: Any) -> Any:
    """A class, or the one that ``module:Class`` names."""
    if not isinstance(stated, str):
        return stated
    module, _, name = stated.partition(":")
    return getattr(importlib.import_module(module), name)


def _classes(module: ModuleType, base: str) -> list[type]:
    """Subclasses of ``base`` that are defined in a module or package, not imported from elsewhere."""
    found = dict.fromkeys(value for value in vars(module).values() if isinstance(value, type))
    own = (module.__name__, f"{module.__name__}.")
    return [c for c in found if (c.__module__ == own[0] or c.__module__.startswith(own[1])) and _derives(c, base)]


def _derives(found: type, base: str) -> bool:
    return base in {f"{parent.__module__}.{parent.__qualname__}" for parent in found.__mro__}
