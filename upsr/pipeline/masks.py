"""Masks: where a result may hold details that the model invented, and where it is the method's faithful estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upsr.errors import UpsrError
from upsr.pipeline.frames import alpha_of, to_colour
from upsr.pipeline.images import ImageLike, photo_of
from upsr.tiling.resizing import BAND, meeting_bands
from upsr.tiling.scratch import Scratch, bands


def mask_of(image: ImageLike) -> Tensor:
    """(h, w) float32 in [0, 1] of a picture: the mean of its colours, and 0 where it is transparent.

    Arrays and tensors of truth values are 1 where they are true.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.bool_:
        image = image.astype(np.float32)
    elif isinstance(image, Tensor) and image.dtype == torch.bool:
        image = image.float()
    frame = photo_of(image).frames[0]
    alpha = alpha_of(frame)
    # Colours under transparent pixels do not matter, so they are not replaced.
    colours = to_colour(frame if alpha is None else np.ascontiguousarray(frame[..., :-1]))
    grey = colours.mean(dim=0)
    return grey if alpha is None else grey * alpha[0]


def check_fits(mask: Tensor, shape: Sequence[int]) -> None:
    """Refuse a mask of other proportions than a (height, width) photo, but for the rounding of the smaller one's sides."""
    (height, width), (rows, columns) = shape, mask.shape
    if 2 * abs(columns * height - rows * width) > max(height + width, rows + columns):
        raise UpsrError(
            f"the mask is {columns} x {rows}, of other proportions than the photo, {width} x {height}; give one of the photo's "
            "size, or of a multiple of it"
        )


def weight_of(mask: Tensor, size: tuple[int, int], scratch: Scratch) -> Tensor:
    """The mask at the size (height, width) of a result, (height, width): the mean of the pixels that one of the result touches.

    It is 0 where one of these is 0, so that nothing outside of the mask is changed at any size.
    """
    weight = scratch.zeros(*size)
    for rows, own in meeting_bands(size[0], len(mask)):
        part, shape = mask[None, None, own], (rows.stop - rows.start, size[1])
        outside = F.adaptive_max_pool2d((part == 0).float(), shape) > 0
        weight[rows] = F.adaptive_avg_pool2d(part, shape).masked_fill_(outside, 0)[0, 0].to(weight.device)
        scratch.release()
    return weight


@torch.inference_mode()
def blend(image: Tensor, faithful: Tensor, weight: Tensor, scratch: Scratch) -> None:
    """Make an image (1, C, H, W), in place, the faithful one where the weight (H, W) is 0, and a mean of both up to 1."""
    for rows in bands(image.shape[-2], BAND):
        part = image[..., rows, :]
        # At 0 and 1 the values are exactly those of one image.
        image[..., rows, :] = torch.lerp(
            faithful[..., rows, :].to(part.device), part, weight[rows].to(part.device).expand_as(part)
        )
        scratch.release()
