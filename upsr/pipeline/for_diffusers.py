"""Any method as a pipeline of diffusers, in diffusers' layout of files.

``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` loads a folder of :func:`write_for_diffusers` where this
package is installed: the two files of code in it only import the classes below.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn
from typing_extensions import Self

from upsr.methods.base import Method
from upsr.pipeline.files import load_model, save_model
from upsr.pipeline.images import OutputType
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.pipeline.settings import UPSROutput
from upsr.tiling.tiles import Progress

_CODE = 'from {module} import {name}\n\n__all__ = ["{name}"]\n'


class RestorationModel(ModelMixin):
    """The networks of a method, as the one component of the pipeline.

    Its folder is one of :meth:`UPSRPipeline.save_pretrained`.

    Args:
        method: restores images.
        description: the method's ``config.json``.
    """

    def __init__(self, method: Method, description: dict[str, Any]) -> None:
        super().__init__()
        self.method, self.description = method, description

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """The component in a folder.

        Args:
            kwargs: ``torch_dtype``, what its networks are kept in, by default float32; what else diffusers passes to every model
                is about the memory that loading takes.
        """
        method, description = load_model(pretrained_model_name_or_path)
        return cls(method.to(kwargs.get("torch_dtype") or torch.float32), description).eval()

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
        self.register_modules(restoration=restoration)

    def __call__(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "pil",
        **settings: Any,
    ) -> UPSROutput:
        """Upscale images; see :meth:`UPSRPipeline.__call__`.

        Args:
            image: as there.
            num_inference_steps: the knob ``steps`` of methods that have one.
            generator: its ``initial_seed()`` is the seed; a seed of ``settings`` is another way to say it.
            output_type: "pil", "np" or "pt".
            settings: further ones, such as tile, mask, fidelity, outscale.

        Returns:
            An output whose ``images`` are as ``output_type`` says.

        Raises:
            UpsrError: an image cannot be read, or a setting is out of its range.
        """
        if num_inference_steps is not None:
            settings["steps"] = num_inference_steps
        if generator is not None:
            settings["seed"] = generator.initial_seed()
        part = self.restoration
        method, device = part.method, self._execution_device
        if self.dtype != torch.float32 or self.device != device:
            method = copy.deepcopy(method).float()  # which parts compute in another type is the method's to decide
        pipeline = UPSRPipeline(method, part.description, device, self.dtype)
        with self.progress_bar(total=1) as bar:
            output: UPSROutput = pipeline(image, output_type=output_type, progress=_shown_on(bar), **settings)
        return output


def _shown_on(bar: Any) -> Progress:
    """Progress in parts of an image, of which a bar of diffusers learns the number with the first."""

    def show(done: int, total: int) -> None:
        bar.reset(total)
        bar.update(done)

    return show


def write_for_diffusers(method: Method, config: dict[str, Any], folder: Path) -> None:
    """Write a method in diffusers' layout: ``model_index.json``, the component's folder, and code that imports it.

    Raises:
        UpsrError: as :func:`upsr.pipeline.files.save_model`.
    """
    component = folder / "restoration"
    component.mkdir()
    save_model(method, config, component)
    for place, kind in (
        (folder / "pipeline.py", UPSRDiffusionPipeline),
        (component / "restoration.py", RestorationModel),
    ):
        place.write_text(_CODE.format(module=__name__, name=kind.__name__), encoding="utf-8")
    index = {
        "_class_name": ["pipeline", UPSRDiffusionPipeline.__name__],
        "_diffusers_version": diffusers.__version__,
        "restoration": ["restoration", RestorationModel.__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
