"""Exported graphs compared with torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from upsr.export.formats import Run
from upsr.export.trace import Sizes, Traced, failing_in_one_line

TOLERANCE = 1e-3
"""Largest difference from torch that passes: a quarter of an 8-bit grey level of [0, 1], an eighth of one of [-1, 1]."""

_SORTING_DRAWS = 8
"""ATD orders pixels by a maximum. Where two values are a rounding apart every runtime decides by its own, and the order from
there on, so the image, is another one: torch's own too, if the input changes in its last digit. A graph that is right agrees
on inputs without such a place; a wrong one never does. So each sample of a batch has this many draws to agree."""


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference from torch at one size of the LR image.

    Attributes:
        draws: number of random inputs; more than one only of networks that sort, see ``_SORTING_DRAWS``.
    """

    batch: int
    height: int
    width: int
    max_abs_difference: float
    draws: int = 1


def compared(sizes: Sizes, least: int) -> Sequence[tuple[int, int, int]]:
    """Batches and sizes to compare at: ``least`` multiples a side, and others that are not traced."""
    if sizes.only is not None:
        return [(batch, *sizes.only) for batch in (1, 3)]
    sides = [sizes.multiple * (least + more) for more in range(3)]
    return [(1, sides[0], sides[0]), (3, sides[0], sides[1]), (1, sides[2], sides[1])]


def differences(traced: Traced, run: Run, sizes: Sizes, least: int) -> list[Difference]:
    """The largest difference at each size; that of a sample is the smallest of its draws.

    Raises:
        UpsrError: the graph fails at a size.
    """
    graph, random = traced.graph, torch.Generator().manual_seed(0)
    draws = _SORTING_DRAWS if traced.sorts else 1
    found = []
    for batch, height, width in compared(sizes, least):
        refusal = f"{graph.name}: the graph of {graph.architecture} fails at {height} x {width}"
        worst, draw = torch.full((batch,), torch.inf), 0
        while draw < draws and not (worst <= TOLERANCE).all():
            draw += 1
            inputs = graph.examples(batch, height, width, random)
            with torch.inference_mode():
                expected = graph.network(*inputs)
                with failing_in_one_line(refusal, sizes.remedy):
                    given = run(dict(zip(graph.inputs, inputs, strict=True)))
            if given.shape == expected.shape:
                worst = torch.minimum(worst, (given - expected).abs().flatten(1).amax(dim=1))
        found.append(Difference(batch, height, width, worst.max().item(), draw))
    return found
