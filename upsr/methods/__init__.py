"""Methods of super-resolution, a folder each.

A folder's module states ``METHOD``, the class that restores; ``TRAININGS``, the trainings by phase, the first being the default;
``NAMES``, older names of its trainings; and ``COMMANDS``, sub-commands of ``upsr FOLDER`` by name: the module of each and its
use in a line. A class is written ``module:Class``, so that it is imported when it is used.
:mod:`upsr.config.methods` finds them by the folder's name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upsr.methods.base import Facts, Knob, Method, Player, Seen, TextKnob, Training
    from upsr.methods.build import build_method, build_training

__all__ = ["Facts", "Knob", "Method", "Player", "Seen", "TextKnob", "Training", "build_method", "build_training"]


def __getattr__(name: str) -> Any:
    """What ``__all__`` names, imported when it is asked for: torch takes seconds, and the commands of methods need none."""
    if name in __all__:
        place = "build" if name.startswith("build_") else "base"
        return getattr(importlib.import_module(f"{__name__}.{place}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
