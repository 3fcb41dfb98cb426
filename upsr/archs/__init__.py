"""Networks in ARCH_REGISTRY."""

from upsr.archs.atd_arch import ATD
from upsr.archs.compact_arch import CompactSR
from upsr.archs.spandrel_arch import SpandrelSR
from upsr.archs.swin_unet_arch import UNetModelSwin

__all__ = ["ATD", "CompactSR", "SpandrelSR", "UNetModelSwin"]
