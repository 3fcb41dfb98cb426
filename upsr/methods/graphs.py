"""Networks of a method as graphs for other runtimes: the statement that :mod:`upsr.export` traces and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Side = int | Literal["batch", "height", "width"]
"""A number, or a side that is free: the batch, height and width of the LR image."""


@dataclass(frozen=True)
class Graph:
    """A network with one output.

    Attributes:
        name: of its files, without the suffix.
        network: called with the inputs in their order.
        inputs: shapes by name; an image has four sides, height and width being the last two.
        output: its name.
        examples: random inputs for a batch, height and width.
    """

    name: str
    network: nn.Module
    inputs: Mapping[str, Sequence[Side]]
    output: str
    examples: Callable[[int, int, int, torch.Generator], tuple[Tensor, ...]]

    @property
    def architecture(self) -> str:
        """Name of the network's class."""
        return type(self.network).__name__


@dataclass(frozen=True)
class Exported:
    """Graphs, in the order they are written, and the numbers of the restoration around them, for JSON."""

    graphs: Sequence[Graph]
    restoring: Mapping[str, Any]
