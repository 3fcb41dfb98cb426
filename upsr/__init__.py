"""UPSR: uncertainty-guided perturbation for diffusion super-resolution of real photos."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from upsr.busy import busy_cores, set_waiting

if TYPE_CHECKING:
    from upsr.pipeline.pipeline import UPSRPipeline

__version__ = "0.1.0"
__all__ = ["UPSRPipeline", "__version__"]

# OpenMP reads how long threads spin when torch is imported, so it is set before, and here is what is imported before all else.
set_waiting(os.environ, busy_cores)

# What torch has no operator for on Apple's graphics processors is computed on the CPU. Read at the import of torch, too.
if sys.platform == "darwin":
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def __getattr__(name: str) -> Any:
    """``upsr.UPSRPipeline``, imported when it is asked for: torch takes seconds, and ``upsr --help`` needs none."""
    if name == "UPSRPipeline":
        from upsr.pipeline.pipeline import UPSRPipeline

        return UPSRPipeline
    raise AttributeError(f"module 'upsr' has no attribute '{name}'")
