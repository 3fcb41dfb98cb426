"""Models that the page offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Protocol

import torch
from torch import Tensor

from upsr.choices import QUALITY
from upsr.images.photo import Photo
from upsr.images.writing import takes_quality
from upsr.methods.base import Knob, TextKnob, Watch
from upsr.pipeline.options import KEY, WEIGHTS_SHA256, options_of
from upsr.pipeline.settings import Settings
from upsr.provenance import without_folders
from upsr.tiling.tiles import Progress


@dataclass(frozen=True)
class Saving:
    """The file that a result becomes.

    Attributes:
        suffix: of its format.
        quality: of JPEG, WebP and AVIF, 1 to 100; without effect on others.
    """

    suffix: str = ".png"
    quality: int = QUALITY

    @property
    def options(self) -> dict[str, Any]:
        """Options of ``upsr upscale`` that make such a file."""
        quality = self.quality if takes_quality(Path(f"result{self.suffix}")) else None
        return {"format": self.suffix.removeprefix("."), "quality": quality}


class Pipeline(Protocol):
    """The part of :class:`upsr.pipeline.pipeline.UPSRPipeline` that the page uses."""

    dtype: torch.dtype

    @property
    def scale(self) -> float:
        """The method's upscaling factor."""

    @property
    def draws(self) -> bool:
        """Results depend on the seed."""

    @property
    def maps(self) -> Sequence[str]:
        """Names of the maps that ``watch`` sees; the page lays the first one over the photo."""

    @property
    def takes_masks(self) -> bool:
        """The method has a faithful estimate, which a result is outside of a mask."""

    def knobs(self) -> Mapping[str, Knob | TextKnob]:
        """The method's settings, by name."""

    def digest(self) -> dict[str, str]:
        """sha256 of the weights, by part."""

    def settled(self, settings: Settings) -> Settings:
        """The settings with a tile in place of "auto"."""

    def target_size(self, shape: Sequence[int], settings: Settings) -> tuple[int, int]:
        """(height, width) of the result of a (height, width) photo."""

    def upscale(
        self,
        photo: Photo,
        settings: Settings,
        *,
        mask: Tensor | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> Photo:
        """Upscale a photo; ``watch`` sees intermediate results, and what ``progress`` raises ends the work."""


@dataclass(frozen=True)
class Model:
    """A pipeline, and where it is from.

    Attributes:
        pipe: restores.
        source: the arguments of ``from_pretrained`` that say which model it is: ``source``, ``method`` and ``parts``.
        name: in the page's list.
    """

    pipe: Pipeline
    source: Mapping[str, Any]
    name: str

    @cached_property
    def _digest(self) -> dict[str, str]:
        return self.pipe.digest()

    def record(self, settings: Settings, saving: Saving, mask: str | None = None) -> dict[str, Any]:
        """The settings of a result as a file of ``upsr upscale --settings``.

        Args:
            settings: with a tile in place of "auto".
            saving: of the result.
            mask: name of the mask's file.
        """
        method = self.source["method"]  # may be a file, too
        public = {
            "source": without_folders(self.source["source"]),
            "method": None if method is None else without_folders(method),
            "parts": {name: without_folders(path) for name, path in self.source["parts"].items()},
        }
        return {KEY: options_of(self.pipe, public, settings, mask=mask, **saving.options), WEIGHTS_SHA256: self._digest}


def named(models: Sequence[tuple[Pipeline, Mapping[str, Any]]]) -> list[Model]:
    """Pipelines with their sources as models, whose names are the weights' and differ."""
    found: list[Model] = []
    for pipe, source in models:
        plain = name = PurePath(source["source"]).name
        number = 2
        while any(name == model.name for model in found):
            name, number = f"{plain} ({number})", number + 1
        found.append(Model(pipe, source, name))
    return found
