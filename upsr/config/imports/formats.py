"""The formats that methods state, and which of them a file is of."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from upsr.config.imports.rules import Format
from upsr.config.methods import PACKAGE, method_names


def formats() -> list[Format]:
    """Every format: those stated by methods as ``IMPORTS``, each ``module:NAME``."""
    found = []
    for name in method_names():
        for stated in getattr(importlib.import_module(f"{PACKAGE}.{name}"), "IMPORTS", ()):
            module, _, attribute = stated.partition(":")
            found.append(getattr(importlib.import_module(module), attribute))
    return found


def format_of(data: Mapping[str, Any]) -> Format | None:
    """The format of another project that a file is of; ``None`` for a file of ours, or of no known kind."""
    return next((form for form in formats() if form.known(data)), None)
