"""Resizes large images in bands of rows, with the result of resizing them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

BAND = 256
"""Rows of a band, about."""
_REACH = 2
"""Pixels on each side on which bicubic interpolation depends: of the image that is enlarged, or of the reduced one."""


def meeting_bands(height: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Bands of an image of ``height`` rows, with those of one of ``rows`` rows that cover the same part of the scene.

    They begin and end where the grids of both images meet, and have up to :data:`BAND` of ``height`` rows if these meet so often:
    at a whole scale in every row of the smaller image; where both heights have no common divisor there is one band.
    """
    meets = math.gcd(height, rows)
    step, own = height // meets, rows // meets
    at_once = max(BAND // step, 1)
    for first in range(0, meets, at_once):
        last = min(first + at_once, meets)
        yield slice(first * step, last * step), slice(first * own, last * own)


def resized_rows(
    image: Tensor,
    size: tuple[int, int],
    rows: slice,
    device: torch.device,
    prepared: Callable[[Tensor], Tensor] = lambda part: part,
    *,
    cut_between: bool = False,
) -> Tensor:
    """Rows of the image at another size, bicubic, with antialiasing where it becomes smaller.

    Args:
        image: (B, C, h, w), of which about the needed rows are taken to ``device``; all of them if both heights have no common
            divisor.
        size: (height, width) of the whole result.
        rows: of the result.
        prepared: is applied to the rows that are taken.
        cut_between: the image is cut to [0, 1] between the two directions, across first, as programs of integers do.

    Returns:
        (B, C, rows, width), not clamped.
    """
    (height, width), own = size, image.shape[-2]
    period = own // math.gcd(height, own)
    reach = _REACH * max(-(-own // height), 1)
    first = max(rows.start * own // height - reach, 0) // period * period
    last = min(-(-(-(-rows.stop * own // height) + reach) // period) * period, own)
    start, stop = first * height // own, last * height // own
    resized = partial(
        F.interpolate, mode="bicubic", align_corners=False, antialias=height < own or width < image.shape[-1]
    )
    part = prepared(image[..., first:last, :].to(device))
    if cut_between:
        part = resized(part, size=(part.shape[-2], width)).clamp_(0, 1)
    part = resized(part, size=(stop - start, width))
    return part[..., rows.start - start : rows.stop - start, :]
