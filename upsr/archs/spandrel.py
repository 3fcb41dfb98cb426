"""Any super-resolution network that spandrel recognises from its checkpoint, as g."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from upsr.archs import ncnn
from upsr.archs.contracts import SRNetwork
from upsr.archs.weights import check_finite, read_weight_file, select_weights
from upsr.compat import ARCH_REGISTRY
from upsr.errors import MissingFileError, UpsrError

_OWN_KEY = "layers.0.patch_embed.norm.weight"
"""A key that the released g has and no published ATD; spandrel, shown such a file without it, would run it wrongly."""

_GENERATOR = "netG."
"""The prefix that trainers of adversarial networks put before all names."""


@ARCH_REGISTRY.register()
class SpandrelSR(SRNetwork):
    """A network built from its weight file alone.

    Args:
        path: checkpoint of a super-resolution network (safetensors or torch's, whatever its name), TorchScript (.pt), or
            ncnn's .param with its .bin beside it. It computes in float32, whatever the file holds.

    Attributes:
        scale, channels: of the network.
        architecture: spandrel's name of it.
        size_multiple: 1; spandrel pads inside.
        carries_weights: True; no other weight file is read.

    Raises:
        UpsrError: spandrel is not installed, or the file is no super-resolution network that it knows.
    """

    carries_weights = True

    def __init__(self, path: str) -> None:
        super().__init__()
        try:
            import spandrel
        except ImportError:
            raise UpsrError("SpandrelSR needs the package spandrel: pip install spandrel") from None
        if not Path(path).is_file():
            raise MissingFileError(f"SpandrelSR.path: no such file: {path}", path)
        weights = ncnn.read_ncnn(path) if Path(path).suffix == ncnn.SUFFIX else _read(path)
        check_finite(weights, f"SpandrelSR.path: {path}")
        if _OWN_KEY in weights:
            raise UpsrError(f"SpandrelSR.path: {path} is the released g; use network type ATD and its weights for it")
        try:
            descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(weights)
        except spandrel.UnsupportedModelError:
            raise UpsrError(f"SpandrelSR.path: spandrel recognises no network in {path}") from None
        except Exception as error:  # damaged files fail in many ways
            reason = " ".join(str(error).split())[:160]
            raise UpsrError(f"SpandrelSR.path: {path} cannot be loaded ({type(error).__name__}: {reason})") from None
        if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.purpose not in ("SR", "FaceSR"):
            raise UpsrError(
                f"SpandrelSR.path: {path} holds a {descriptor.architecture.name}, which does not upscale images"
            )
        if descriptor.input_channels != descriptor.output_channels or descriptor.input_channels not in (1, 3):
            raise UpsrError(
                f"SpandrelSR.path: {path} maps {descriptor.input_channels} to {descriptor.output_channels} channels; "
                "1 or 3 on both sides are needed"
            )
        self.scale = descriptor.scale
        self.channels = descriptor.input_channels
        self.architecture = descriptor.architecture.name
        self.network = descriptor.model
        self._descriptor = descriptor

    def forward(self, lq: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] -> (B, C, scale*h, scale*w) in [0, 1]."""
        if self._descriptor.model is not self.network:  # this is a copy, whose modules may have been exchanged
            self._descriptor = copy.copy(self._descriptor)
            self._descriptor._model = self.network
        return self._descriptor(lq)


def _read(path: str) -> dict[str, Tensor]:
    """The weights in a file, under the names that spandrel knows."""
    if Path(path).suffix.lower() == ".pt" and _is_torchscript(path):
        return dict(torch.jit.load(path, map_location="cpu").state_dict())
    weights = select_weights(read_weight_file(path), None, path)[1]
    if all(name.startswith(_GENERATOR) for name in weights):
        return {name.removeprefix(_GENERATOR): value for name, value in weights.items()}
    return weights


def _is_torchscript(path: str) -> bool:
    return zipfile.is_zipfile(path) and any(
        name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()
    )
