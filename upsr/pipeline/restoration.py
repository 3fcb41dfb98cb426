"""Frames of a photo restored, put together under a mask, and made consistent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from upsr.errors import UpsrError
from upsr.images.photo import Frame
from upsr.methods.base import Method, Watch
from upsr.pipeline.frames import to_colour, to_frame
from upsr.pipeline.images import check_sound, resized, resized_alpha
from upsr.pipeline.masks import blend, check_fits, weight_of
from upsr.pipeline.settings import Settings
from upsr.restoring.restore import restore_planned
from upsr.tiling.colour import COLOUR_FIXES
from upsr.tiling.consistency import SHARE, project
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import TilePlan

COLOUR = "colour"
"""The knob of a method that corrects colours itself."""


@dataclass(frozen=True)
class Restoration:
    """What the frames of a photo have in common.

    Attributes:
        method: under the settings of the photo.
        faithful: gives the result outside of the mask; ``None`` without a mask.
        mask: (h, w) of any size of the photo's proportions, see :mod:`upsr.pipeline.masks`.
        size: (height, width) of the result.
        name: identity of the noise.
        settings: seed, colour fix and consistency.
        plan: makes the plan of the next restoration, with memory of its own.
        device: where the networks compute.
    """

    method: Method
    faithful: Method | None
    mask: Tensor | None
    size: tuple[int, int]
    name: str
    settings: Settings
    plan: Callable[[], TilePlan]
    device: torch.device

    @torch.inference_mode()
    def of(self, frame: Frame, watch: Watch | None = None) -> tuple[Frame, str | None]:
        """The result of a frame, and what it does not keep of the promises in the settings."""
        lq = to_colour(frame)[None].to(self.device)
        image, scratch = self._restored(self.method, lq, watch)
        weight, share, largest = None, 1.0, int(np.iinfo(frame.dtype).max)
        if self.mask is not None and self.faithful is not None:
            outside, beside = self._restored(self.faithful, lq)
            if self.settings.consistent:
                project(outside, lq, beside, largest=largest)
            weight = weight_of(self.mask, self.size, scratch)
            blend(image, outside, weight, scratch)
        if self.settings.consistent:
            share = project(image, lq, scratch, largest=largest, weight=weight)
        note = None
        if share < SHARE:
            note = f"not consistent: {share:.3%} of the values are within a grey level of the photo's, not {SHARE:.1%}"
        return to_frame(image[0], resized_alpha(frame, self.size), frame), note

    def _restored(self, method: Method, lq: Tensor, watch: Watch | None = None) -> tuple[Tensor, Scratch]:
        """(1, 3, *size) of a frame (1, 3, h, w), and what the memory comes from."""
        plan, settings = self.plan(), self.settings
        # A network for grey images takes the three colours as a batch.
        batch = lq.unflatten(1, (-1, method.facts.channels))[0]
        names = [self.name] * len(batch)
        image = restore_planned(method, batch, plan, seed=settings.seed, names=names, noise=settings.noise, watch=watch)
        image = image.flatten(0, 1)[None]
        if settings.colour_fix is not None and COLOUR not in method.knobs():
            image = COLOUR_FIXES[settings.colour_fix](image, lq, plan.scratch).clamp_(0, 1)
        check_sound(image, lq)
        return resized(image, self.size), plan.scratch


def faithful_for(method: Method, mask: Tensor, shape: tuple[int, int]) -> Method:
    """The method as it restores outside of a mask of a (height, width) photo.

    Raises:
        UpsrError: there is none, or the mask does not fit.
    """
    if (faithful := method.faithful()) is None:
        raise UpsrError(f"mask: the method {type(method).__name__} has no faithful estimate to keep outside of a mask")
    check_fits(mask, shape)
    return faithful
