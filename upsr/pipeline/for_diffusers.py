"""Any method as a pipeline of diffusers, in diffusers' layout of files.

``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` loads a folder of :func:`write_for_diffusers` where this
package is installed: the two files of code in it only import the classes below.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn
from typing_extensions import Self

from upsr.errors import UpsrError
from upsr.methods.base import Method
from upsr.pipeline.files import COMPONENT, load_model, save_model
from upsr.pipeline.images import OutputType, items_of
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.pipeline.settings import UPSROutput
from upsr.tiling.tiles import Progress

_CODE = 'from {module} import {name}\n\n__all__ = ["{name}"]\n'


class RestorationModel(ModelMixin):
    """The networks of a method, as the one component of the pipeline.

    Its folder is one of :meth:`UPSRPipeline.save_pretrained`.

    Its parameters stay in float32: which parts compute in another type is the method's to decide, and rounded ones would be
    other weights. ``dtype`` is the type that was asked for.

    Args:
        method: restores images.
        description: the method's ``config.json``.
        dtype: see above.
    """

    def __init__(self, method: Method, description: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.method, self.description, self._asked = method.float(), description, dtype

    @property
    def dtype(self) -> torch.dtype:
        """The type that the pipeline computes in where the method allows."""
        return self._asked

    def to(self, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """As of any module, but for the type, which is kept for the pipeline."""
        device, dtype, blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        self._asked = dtype or self._asked
        return self if device is None else nn.Module.to(self, device=device, non_blocking=blocking)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """The component in a folder.

        Args:
            kwargs: ``dtype`` or its older name ``torch_dtype``, by default float32; what else diffusers passes to every model is
                about the memory that loading takes.
        """
        method, description = load_model(pretrained_model_name_or_path)
        asked = kwargs.get("dtype") or kwargs.get("torch_dtype")
        return cls(method, description, asked or torch.float32).eval()

    def save_pretrained(self, save_directory: Any, *_: Any, **__: Any) -> None:
        """Write the folder; what else diffusers passes is about its own format."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        save_model(self.method, self.description, Path(save_directory))

    def forward(self, *_: Any) -> Tensor:
        """Not for calling: a restoration is more than one call of a network."""
        raise NotImplementedError("call the pipeline")


class UPSRDiffusionPipeline(DiffusionPipeline):
    """Photos in, photos ``scale`` times as large out, called as pipelines of diffusers are.

    Args:
        restoration: the method's networks.
    """

    def __init__(self, restoration: nn.Module) -> None:
        super().__init__()
        self.register_modules(restoration=restoration)  # the parameter's name is COMPONENT, as diffusers asks

    def __call__(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        **settings: Any,
    ) -> UPSROutput:
        """Upscale images; see :meth:`UPSRPipeline.__call__`.

        Args:
            image: as there.
            num_inference_steps: the knob ``steps`` of methods that have one.
            generator: its ``initial_seed()`` is the seed; a list has one for each image. A seed of ``settings`` is another way to
                say it.
            output_type: "pil", "np" or "pt".
            settings: further ones, such as tile, mask, fidelity, outscale.

        Returns:
            An output whose ``images`` are as ``output_type`` says.

        Raises:
            UpsrError: an image cannot be read, a setting is out of its range, or there are more or fewer generators than images.
        """
        if num_inference_steps is not None:
            settings["steps"] = num_inference_steps
        part = self.restoration
        method, device = part.method, self._execution_device
        if self.device != device:
            method = copy.deepcopy(method)
        pipeline = UPSRPipeline(method, part.description, device, part.dtype)
        with self.progress_bar(total=1) as bar:
            settings |= {"output_type": output_type, "progress": _shown_on(bar)}
            if isinstance(generator, list):
                return _one_each(pipeline, image, [one.initial_seed() for one in generator], settings)
            if generator is not None:
                settings["seed"] = generator.initial_seed()
            output: UPSROutput = pipeline(image, **settings)
        return output


def _one_each(pipeline: UPSRPipeline, image: Any, seeds: Sequence[int], settings: dict[str, Any]) -> UPSROutput:
    """The results of images that have a seed each, as one output."""
    items, masks = list(items_of(image)), settings.pop("mask", None)
    if len(seeds) != len(items):
        raise UpsrError(f"generator: {len(seeds)} for {len(items)} images; give one for each, or one that is no list")
    own = [None] * len(items) if masks is None else list(items_of(masks))
    if len(own) != len(items):
        raise UpsrError(f"mask: {len(own)} for {len(items)} images; give one for each")
    found = [
        pipeline(item, mask=mask, **{**settings, "seed": seed})
        for item, mask, seed in zip(items, own, seeds, strict=True)
    ]

    def joined(parts: Iterable[list[Any] | None]) -> list[Any]:
        return [entry for part in parts for entry in part or ()]

    return UPSROutput(
        joined(one.images for one in found),
        joined(one.maps for one in found) or None,
        joined(one.intermediates for one in found) or None,
        joined(one.notes for one in found),
    )


def _shown_on(bar: Any) -> Progress:
    """Progress in parts of an image, of which a bar of diffusers learns the number with the first."""

    def show(done: int, total: int) -> None:
        bar.reset(total)
        bar.update(done)

    return show


def write_for_diffusers(method: Method, config: dict[str, Any], folder: Path) -> None:
    """Write a method in diffusers' layout: ``model_index.json``, the component's folder, and code that imports it.

    :meth:`UPSRPipeline.from_pretrained` reads such a folder too.

    Raises:
        UpsrError: as :func:`upsr.pipeline.files.save_model`.
    """
    component = folder / COMPONENT
    component.mkdir()
    save_model(method, config, component)
    for place, kind in (
        (folder / "pipeline.py", UPSRDiffusionPipeline),
        (component / f"{COMPONENT}.py", RestorationModel),
    ):
        place.write_text(_CODE.format(module=__name__, name=kind.__name__), encoding="utf-8")
    index = {
        "_class_name": ["pipeline", UPSRDiffusionPipeline.__name__],
        "_diffusers_version": diffusers.__version__,
        COMPONENT: [COMPONENT, RestorationModel.__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
