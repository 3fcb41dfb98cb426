"""UPSR: uncertainty-guided perturbation for diffusion super-resolution of real photos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upsr.inference.pipeline import UPSRPipeline

__version__ = "0.1.0"
__all__ = ["UPSRPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """``upsr.UPSRPipeline``, imported when it is asked for: torch takes seconds, and ``upsr --help`` needs none."""
    if name == "UPSRPipeline":
        from upsr.inference.pipeline import UPSRPipeline

        return UPSRPipeline
    raise AttributeError(f"module 'upsr' has no attribute '{name}'")
