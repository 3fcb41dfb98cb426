"""A pipeline and its settings as options of ``upsr upscale``: what a file of ``--settings`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from upsr.pipeline.settings import Settings

if TYPE_CHECKING:
    import torch

KEY = "options"
"""Of such a file: an object of options by name, as ``{"seed": 5, "knob": ["eta=0.5"], "consistent": true}``."""
WEIGHTS_SHA256 = "weights_sha256"
"""Of such a file: digests of the weights by the names of the parts; others under the same name are refused."""

_OWN = ("steps", "fidelity", "adaptive")
"""Knobs that have an option of their own name."""


class Described(Protocol):
    """The part of :class:`upsr.pipeline.pipeline.UPSRPipeline` that options follow from."""

    dtype: torch.dtype

    @property
    def draws(self) -> bool:
        """Results depend on the seed."""


def options_of(pipe: Described, model: Mapping[str, Any], settings: Settings, **files: Any) -> dict[str, Any]:
    """The options with which ``upsr upscale`` makes the same result of the same photo.

    Args:
        model: the arguments of ``from_pretrained`` that say which model it is: ``source``, ``method`` and ``parts``.
        settings: with a tile in place of "auto", see :meth:`upsr.pipeline.pipeline.UPSRPipeline.settled`.
        files: further options by name, such as ``mask`` and ``format``; ``None`` for one that is not given.
    """
    knobs = {name: value for name, value in settings.knobs.items() if value is not None}
    width, height = settings.size or (None, None)
    options: dict[str, Any] = {
        "weights": model["source"],
        "method": model["method"],
        "part": [f"{name}={path}" for name, path in model["parts"].items()],
        "outscale": None if settings.size else settings.outscale,
        "width": width,
        "height": height,
        "seed": settings.seed if pipe.draws else None,
        "noise": settings.noise if pipe.draws else None,
        **{name: knobs.pop(name, None) for name in _OWN},
        "knob": [f"{name}={value}" for name, value in knobs.items()],
        "colour_fix": settings.colour_fix,
        "consistent": settings.consistent or None,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "tile": "none" if settings.tile is None else settings.tile,
        "batch": settings.tiles_at_once if settings.tiles_at_once != 1 else None,
        **files,
    }
    given = {name: value for name, value in options.items() if value not in (None, [])}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
