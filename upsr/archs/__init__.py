"""Networks in ARCH_REGISTRY, in torch's own layers; :mod:`upsr.accelerate` has faster forms of them for inference."""

from upsr.archs.atd import ATD
from upsr.archs.compact import CompactSR
from upsr.archs.patchgan import PatchDiscriminator
from upsr.archs.spandrel import SpandrelSR
from upsr.archs.unconditional import DenoisingDiffusionUNet, DiffusersUNet2D
from upsr.archs.unet_resshift import ResShiftUNet
from upsr.archs.unet_upsr import UNetModelSwin

__all__ = [
    "ATD",
    "CompactSR",
    "DenoisingDiffusionUNet",
    "DiffusersUNet2D",
    "PatchDiscriminator",
    "ResShiftUNet",
    "SpandrelSR",
    "UNetModelSwin",
]
