"""``torch.export`` of a graph, for all sizes or for one."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from upsr.errors import UpsrError
from upsr.methods.graphs import Graph


@dataclass(frozen=True)
class Sizes:
    """LR sizes that graphs are for; the batch is free.

    Attributes:
        multiple: each side is a multiple of it.
        only: the one height and width; ``None`` for all.

    Raises:
        UpsrError: ``only`` has other sides.
    """

    multiple: int
    only: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.only is not None and any(side < 1 or side % self.multiple for side in self.only):
            given = " ".join(map(str, self.only))
            raise UpsrError(f"--size {given}: sides of this model are multiples of {self.multiple}")

    @property
    def remedy(self) -> str:
        """End of the message about a network that cannot be exported."""
        return "; --size H W exports it for one size" if self.only is None else ""


@dataclass(frozen=True)
class Traced:
    """A graph's program, and the least number of multiples in a side that it is valid for."""

    graph: Graph
    program: torch.export.ExportedProgram
    least: int = 1

    @property
    def sorts(self) -> bool:
        """Values are put in an order, so roundings may decide about the output."""
        return any(node.target is torch.ops.aten.sort.stable for node in self.program.graph.nodes)


class _Cut(nn.Module):
    """A network whose images are cut to whole multiples, which they have already.

    For the tracer sides are then ``multiple * n`` instead of any number. All conditions of a network (windows tile the image,
    it can be halved) then hold for every ``n`` or for none.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.network(*(self._cut(x) if x.dim() == 4 else x for x in inputs))
        return result

    def _cut(self, image: Tensor) -> Tensor:
        height, width = (side // self.multiple * self.multiple for side in image.shape[2:])
        return image[:, :, :height, :width]


def trace(graph: Graph, sizes: Sizes) -> Traced:
    """The program of a graph.

    Raises:
        UpsrError: the network decides by the size of its input in a way that the tracer cannot follow.
    """
    dims: dict[str | int, Any] = {"batch": torch.export.Dim("batch", min=1)}
    if sizes.only is None:
        dims |= {side: sizes.multiple * torch.export.Dim(f"{side}_multiples", min=1) for side in ("height", "width")}
    free = tuple(
        {axis: dims[side] for axis, side in enumerate(shape) if side in dims} for shape in graph.inputs.values()
    )
    # The tracer takes sides of 1 for constants, and equal sides for the same.
    height, width = sizes.only or (3 * sizes.multiple, 5 * sizes.multiple)
    inputs = graph.examples(2, height, width, torch.Generator().manual_seed(0))
    which = "for all sizes" if sizes.only is None else f"at {height} x {width}"
    refusal = f"{graph.name}: {graph.architecture} cannot be exported {which}"
    # With gradients on, the cached attention biases are computed in the graph, from the weights.
    with failing_in_one_line(refusal, sizes.remedy), torch.enable_grad():
        module = _Cut(graph.network, sizes.multiple).eval()
        program = torch.export.export(module, inputs, dynamic_shapes=(free,))
    if sizes.only is not None:
        return Traced(graph, program)
    assumed = program.range_constraints.items()
    if any(str(span.upper).isdigit() for _, span in assumed):  # not "int_oo"
        raise UpsrError(f"{refusal}{sizes.remedy}")
    # Terms are s1 (a number of multiples, or the batch) and 32*s1 (a side).
    least = [int(span.lower) if term.is_Symbol else -(-int(span.lower) // sizes.multiple) for term, span in assumed]
    return Traced(graph, program, max(least, default=1))


@contextlib.contextmanager
def failing_in_one_line(message: str, remedy: str = "") -> Iterator[None]:
    """Turns any failure of an exporter, a compiler or a runtime into an UpsrError, and hides its output and warnings."""
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # each tool has its own
        reason: BaseException = error
        while reason.__cause__ is not None:  # of a failed conversion torch hides the reason there
            reason = reason.__cause__
        lines = str(reason).strip().splitlines()
        said = f"{type(reason).__name__}: {lines[0][:160]}" if lines else type(reason).__name__
        raise UpsrError(f"{message} ({said}){remedy}") from error
