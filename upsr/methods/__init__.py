"""Methods of super-resolution, a folder each.

A folder's module states ``METHOD``, the class that restores; ``TRAININGS``, the trainings by phase, the first being the default;
and ``NAMES``, older names of its trainings. A class is written ``module:Class``, so that it is imported when it is used.
:mod:`upsr.config.methods` finds them by the folder's name.
"""

from upsr.methods.base import Facts, Knob, Method, Player, Seen, Training
from upsr.methods.build import build_method, build_training

__all__ = ["Facts", "Knob", "Method", "Player", "Seen", "Training", "build_method", "build_training"]
