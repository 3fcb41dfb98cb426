"""Makes a restored image one whose reduction is the photo that it comes from, by iterative back-projection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from upsr.tiling.resizing import meeting_bands, resized_rows
from upsr.tiling.scratch import Scratch

LEVEL = 1 / 255
"""Of 8 bits, whatever the photo has."""
SHARE = 0.999
"""Of the values of the reduced result that are to be within a level of the photo's."""
_CLOSE = 0.5 * LEVEL
"""Bound of the differences before the result is rounded: rounding to 8 bits moves a value by up to half a level."""
_MOST_ROUNDS = 64
_EPS = 1e-5


@torch.inference_mode()
def project(image: Tensor, lq: Tensor, scratch: Scratch, *, largest: int, weight: Tensor | None = None) -> float:
    """Adds to an image, in place, what its reduction lacks of the photo, until :data:`SHARE` of the values hold or for 64 rounds.

    The reduction is bicubic with antialiasing, as everywhere here, and the same cut to [0, 1] between its two directions, as by
    Pillow: near black and white, where they differ, the image is to hold by both, and what the mean of them lacks is added. It is
    enlarged bicubically, which is smooth. Where the image is clamped to [0, 1] many rounds are needed, so each goes on in the
    direction of the one before, as in Nesterov's accelerated gradient.

    Args:
        image: (1, C, H, W) in [0, 1].
        lq: (1, C, h, w) in [0, 1], the photo, of no more rows and columns.
        largest: value of the integers that the image will be rounded to: 255 or 65535.
        weight: (H, W); where it is 0, the image stays as it is.

    Returns:
        Share of the values that are within a level of the photo's after rounding, by the reduction by which there are fewer.
    """
    size, rest, before = (image.shape[-2], image.shape[-1]), scratch.zeros(*lq.shape), scratch.zeros(*image.shape)
    for k in range(_MOST_ROUNDS):
        if _share(image, lq, rest, scratch, _CLOSE) >= SHARE:
            break
        for rows, _ in meeting_bands(size[0], lq.shape[-2]):
            added = resized_rows(rest, size, rows, lq.device)
            if weight is not None:
                added *= (weight[rows] > 0).to(lq.device)
            moved = added.add_(image[..., rows, :].to(lq.device)).clamp_(0, 1).to(image.device)
            further = (moved - before[..., rows, :].to(moved.device)) * (k / (k + 3))
            image[..., rows, :], before[..., rows, :] = further.add_(moved).clamp_(0, 1), moved.to(before.device)
            scratch.release()
    return _share(image, lq, rest, scratch, LEVEL, lambda part: (part * largest).round_() / largest)


def _share(
    image: Tensor,
    lq: Tensor,
    rest: Tensor,
    scratch: Scratch,
    bound: float,
    prepared: Callable[[Tensor], Tensor] = lambda part: part,
) -> float:
    """Share of the values of the reduced image that are within ``bound`` of the photo's, the smaller one of both reductions.

    Args:
        rest: is filled with the mean of the differences.
        prepared: is applied to the image before it is reduced.
    """
    size, within = (lq.shape[-2], lq.shape[-1]), [0, 0]
    for _, own in meeting_bands(image.shape[-2], lq.shape[-2]):
        lacking = [
            lq[..., own, :] - resized_rows(image, size, own, lq.device, prepared, cut_between=cut).clamp_(0, 1)
            for cut in (False, True)
        ]
        within = [
            before + int((part.abs() <= bound + _EPS).sum()) for before, part in zip(within, lacking, strict=True)
        ]
        rest[..., own, :] = lacking[0].lerp_(lacking[1], 0.5).to(rest.device)
        scratch.release()
    return min(within) / lq.numel()
