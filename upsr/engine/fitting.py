"""Checks from options and headers, before the first iteration, that a validation set fits the method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Subset

from upsr.data.image_io import UnreadableImageError
from upsr.engine.evaluate import ValidationSet
from upsr.errors import UpsrError
from upsr.methods.base import Facts

_MOST_EXTRA = 7
"""Rows or columns of a ground truth beyond scale times the LR image: what is left where its side is no multiple."""


def refuse_misfits(phase: str, data: ValidationSet, facts: Facts) -> None:
    """Compare a set's channels, scale and sizes with the method's. Images that cannot be read are passed over.

    Raises:
        UpsrError: what does not fit, by the key of the set.
    """
    dataset: Any = data.dataset.dataset if isinstance(data.dataset, Subset) else data.dataset
    used = range(len(data.dataset))  # a subset is of the first images
    if dataset.channels != facts.channels:
        raise UpsrError(f"datasets.{phase}.channels: {dataset.channels}, but the network has {facts.channels}")
    if dataset.scale not in (None, facts.scale):
        raise UpsrError(
            f"datasets.{phase}: its pairs are x{dataset.scale}, but scale is {facts.scale:g}; "
            f"make them agree (scale: {facts.scale:g})"
        )
    for name, sizes in _sizes(dataset, used):
        if problem := _problem(sizes, facts):
            raise UpsrError(f"datasets.{phase}: {name}: {problem}")


def _sizes(dataset: Any, used: range) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """(height, width) of the files of each image, by side, from their headers."""
    sides = dataset.sides()
    for index in used if "gt" in sides else ():
        try:
            yield dataset.keys[index], {side: folder.size(keys[index]) for side, (folder, keys) in sides.items()}
        except UnreadableImageError:
            continue


def _problem(sizes: dict[str, tuple[int, int]], facts: Facts) -> str | None:
    gt, scale = sizes["gt"], facts.scale
    if min(gt) < scale:
        return f"{gt[1]}x{gt[0]} is smaller than {scale:g} pixels, the scale"
    if "lq" not in sizes:
        return None
    lq = sizes["lq"]
    height, width = facts.output_size(*lq)
    if 0 <= gt[0] - height <= _MOST_EXTRA and 0 <= gt[1] - width <= _MOST_EXTRA:
        return None
    return (
        f"the LR image is {lq[1]}x{lq[0]}, which gives {width}x{height} at x{scale:g}, and its ground truth is "
        f"{gt[1]}x{gt[0]}; check scale and pairing"
    )
