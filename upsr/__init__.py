"""UPSR: uncertainty-guided perturbation for diffusion super-resolution of real photos."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upsr.pipeline.pipeline import UPSRPipeline

__version__ = "0.1.0"
__all__ = ["UPSRPipeline", "__version__"]

# The OpenMP threads of torch wait for each other by spinning: where other programs run too, a thread that spins keeps the one it
# waits for from its core. A photo of 160 x 147 took 19 to 29 s on two busy cores, and 3 to 11 s with this count. OpenMP reads it
# when torch is imported, so it has to be set before, and here is what is imported before all else.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# What torch has no operator for on Apple's graphics processors is computed on the CPU. Read at the import of torch, too.
if sys.platform == "darwin":
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def __getattr__(name: str) -> Any:
    """``upsr.UPSRPipeline``, imported when it is asked for: torch takes seconds, and ``upsr --help`` needs none."""
    if name == "UPSRPipeline":
        from upsr.pipeline.pipeline import UPSRPipeline

        return UPSRPipeline
    raise AttributeError(f"module 'upsr' has no attribute '{name}'")
