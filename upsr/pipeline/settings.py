"""Settings and results of upscaling."""

from __future__ import annotations

import difflib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from upsr.choices import NOISE, ColourFix, NoiseSource
from upsr.errors import UpsrError
from upsr.pipeline.checks import is_number, whole


@dataclass(frozen=True)
class Settings:
    """How photos are upscaled.

    Attributes:
        seed: of the noise; a photo's noise is a function of the seed and its pixels. Without effect on a method without noise.
        noise: generator of the noise: "counter" draws any part of a field by itself, on the device, so that a large photo's
            noise needs no room; "sequential" is torch's for CPUs. Another generator is other noise.
        outscale: size of the result over that of the photo; ``None`` for the method's scale. A method with a knob ``scale``
            restores at it; what other methods give is resized.
        size: (width, height) of the result instead, of which one may be ``None`` to keep the proportions.
        tile: about the side of tiles in LR pixels; "auto" for what fits the free memory; ``None`` for no tiles.
        tiles_at_once: tiles in one network call on a GPU; a CPU takes them one by one, so its results never depend on it.
        colour_fix: "none", "adain" or "wavelet", see :mod:`upsr.tiling.colour`; ``None`` for that of a method with a knob
            ``colour``, else none.
        consistent: make results whose bicubic reduction is the photo, see :mod:`upsr.tiling.consistency`; their sides have to be
            longer than the photo's.
        knobs: settings of the method by name, see :meth:`upsr.methods.base.Method.knobs`; ``None`` for its own value.

    Raises:
        UpsrError: a value is of another kind. Ranges are checked by the pipeline.
    """

    seed: int = 0
    noise: NoiseSource = NOISE
    outscale: float | None = None
    size: tuple[int | None, int | None] | None = None
    tile: int | Literal["auto"] | None = "auto"
    tiles_at_once: int = 1
    colour_fix: ColourFix | None = None
    consistent: bool = False
    knobs: Mapping[str, float | str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sides = self.size
        if self.outscale is not None and not is_number(self.outscale):
            raise UpsrError(f"outscale is {self.outscale!r}; give a number: the size of the result over the photo's")
        if sides is not None and not (isinstance(sides, (tuple, list)) and len(sides) == 2):
            raise UpsrError(f"size is {sides!r}; give (width, height) in pixels, of which one may be None")
        if not isinstance(self.consistent, (bool, np.bool_)):
            raise UpsrError(f"consistent is {self.consistent!r}; give True or False")
        if not isinstance(self.knobs, Mapping):
            raise UpsrError(f"knobs is {self.knobs!r}; give the method's settings by name: {{'steps': 2}}")
        named = self.tile is None or (isinstance(self.tile, str) and self.tile == "auto")
        wanted = "(width, height) in whole pixels, of which one may be None"
        checked = {
            "seed": whole("seed", self.seed),
            "size": sides and tuple(None if side is None else whole("a side of size", side, wanted) for side in sides),
            "tile": self.tile if named else whole("tile", self.tile, "a whole number of LR pixels, 'auto' or None"),
            "tiles_at_once": whole("tiles_at_once", self.tiles_at_once),
            "consistent": bool(self.consistent),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """Settings from keywords of which some may be knobs: ``Settings.of(seed=1, steps=2)``."""
        own: dict[str, Any] = {field.name: given.pop(field.name) for field in fields(cls) if field.name in given}
        return cls(**{"knobs": given, **own})

    def refuse_unknown(self, own: Container[str]) -> None:
        """Refuse a knob whose name a method has not and that is meant for a field.

        Args:
            own: names of the method's knobs.

        Raises:
            UpsrError: there is one; it names the field.
        """
        names = [field.name for field in fields(self)]
        for name in self.knobs:
            if name in own or name in names:  # a field among the knobs is refused by the method
                continue
            if name in ("width", "height"):
                raise UpsrError(f"{name}: no such setting; give size=(width, height), of which one may be None")
            if near := difflib.get_close_matches(name, names, n=1, cutoff=0.75):
                raise UpsrError(f"{name}: no such setting; did you mean '{near[0]}'?")


@dataclass(frozen=True)
class UPSROutput:
    """What a pipeline gives, one entry for each image; animations keep their frames in lists.

    Attributes:
        images: the results.
        maps: maps over the image by name, grey, at the method's scale: UPSR's ``uncertainty`` (psi over psi_max, 1 and more is
            white) and ``weight`` of the noise. ``output.uncertainty`` is the list of one map; ``None`` where there is none.
        intermediates: the pictures on the way by name, at the method's scale: g(y), x_T and the estimate of each step.
        notes: phrases for the user: what was repaired or left out of the photo, and promises that the result does not keep.
    """

    images: list[Any]
    maps: list[dict[str, Any]] | None = None
    intermediates: list[dict[str, Any]] | None = None
    notes: list[tuple[str, ...]] = field(default_factory=list)

    def __getattr__(self, name: str) -> list[Any] | None:
        if name.startswith("__"):
            raise AttributeError(name)
        return [found[name] for found in self.maps] if self.maps and name in self.maps[0] else None
