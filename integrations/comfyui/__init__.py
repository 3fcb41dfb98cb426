"""Nodes of ComfyUI: a loader of a super-resolution model of upsr, and the upscaling of images with it.

ComfyUI reads NODE_CLASS_MAPPINGS when it starts. Its modules are imported by a running node, so this module loads without them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import upsr
from upsr.errors import UpsrError

_MODEL = "UPSR_MODEL"
_CATEGORY = "image/upscaling"
_LARGEST_SEED = 2**64 - 1


class UPSRLoader:
    """Loads the model that the upscaling node takes."""

    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "A super-resolution model of upsr: shipped or fetched weights by name, a folder, a run, a weight file."
    )
    RETURN_TYPES = (_MODEL,)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """The widgets by name: type and settings."""
        return {
            "required": {
                "weights": ("STRING", {"default": "tiny", "tooltip": "A name (upsr weights list) or a path."}),
                "device": (["auto", "cpu", "cuda"],),
                "dtype": (["auto", "float32", "bfloat16", "float16"],),
            }
        }

    def load(self, weights: str, device: str, dtype: str) -> tuple[Any]:
        """A tuple of one pipeline.

        Raises:
            UpsrError: there is no such model, or no such device.
        """
        return (upsr.UPSRPipeline.from_pretrained(weights.strip(), device=device, dtype=dtype),)


class UPSRUpscale:
    """Upscales images one by one; an image's noise depends on the seed and its pixels alone."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Upscales images with a model of upsr, in tiles that fit the free memory."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """The widgets by name: type and settings."""
        tile = {"default": 0, "min": 0, "max": 4096, "tooltip": "About the side, in pixels of the input; 0: what fits."}
        outscale = {"default": 0.0, "min": 0.0, "max": 64.0, "step": 0.5, "tooltip": "0: the model's own."}
        knobs = {"default": "", "multiline": True, "tooltip": "The method's settings, one a line: steps=4"}
        return {
            "required": {
                "model": (_MODEL,),
                "image": ("IMAGE",),
                "seed": ("INT", {"default": 0, "min": 0, "max": _LARGEST_SEED}),
                "tile": ("INT", tile),
                "outscale": ("FLOAT", outscale),
                "knobs": ("STRING", knobs),
            }
        }

    def upscale(self, model: Any, image: Tensor, seed: int, tile: int, outscale: float, knobs: str) -> tuple[Tensor]:
        """A tuple of the results, (B, H, W, C) in [0, 1].

        Args:
            image: (B, h, w, C) in [0, 1], C from 1 to 4; values beyond, which other nodes leave, are clipped.
            knobs: lines NAME=VALUE.

        Raises:
            UpsrError: a setting has another form or is out of its range.
        """
        own = _parsed(knobs, model.knobs())
        settings = {"seed": seed, "tile": tile or "auto", "outscale": outscale or None, "knobs": own}
        report = _reporter()
        results = []
        for index, picture in enumerate(image.clamp(0, 1)):

            def progress(done: int, total: int, index: int = index) -> None:
                report(index * total + done, len(image) * total)

            result = model(picture.movedim(-1, 0), output_type="pt", progress=progress, **settings)
            results.append(result.images[0].movedim(0, -1))
        return (torch.stack(results),)


def _parsed(text: str, own: Any) -> dict[str, Any]:
    """The knobs of a text; one that the method has not stays a text, and is refused by the pipeline.

    Raises:
        UpsrError: a line is not NAME=VALUE, or a value is no number where one is needed.
    """
    values: dict[str, Any] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not (name and equals):
            raise UpsrError(f"knobs: {line}; give NAME=VALUE, one a line")
        try:
            values[name] = own[name].parsed(value) if name in own else value
        except ValueError:
            raise UpsrError(f"knobs: {line}; give a number: {own[name].about}") from None
    return values


def _reporter() -> Callable[[int, int], None]:
    """Shows (done, total) on the node, and raises where the user has pressed Cancel; does nothing without ComfyUI."""
    with contextlib.suppress(ImportError):
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar

        bar = ProgressBar(1)

        def report(done: int, total: int) -> None:
            throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        return report
    return lambda done, total: None


NODE_CLASS_MAPPINGS = {"UPSRLoader": UPSRLoader, "UPSRUpscale": UPSRUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"UPSRLoader": "Load upsr model", "UPSRUpscale": "Upscale image (upsr)"}
