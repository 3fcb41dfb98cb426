"""The authors' weight files, recognised by the tensors in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upsr.errors import UpsrError

_OF_DENOISERS = "input_blocks.0.0.weight"

RELEASED: dict[str, Any] = {
    "model_type": "UPSRModel",
    "scale": 4,
    "network_g": {"type": "UNetModelSwin"},
    "network_aux": {"type": "ATD", "upscale": 4},
}
"""The authors' x4 model: the networks' defaults are its shapes."""


def released_options(path: Path, tensors: Sequence[str], beside: Path | None) -> dict[str, Any] | None:
    """Options of the authors' x4 model for a file of its denoiser.

    Args:
        beside: the file of g.

    Raises:
        UpsrError: the file of g is not named.
    """
    if _OF_DENOISERS not in tensors and beside is None:
        return None
    if beside is None:
        raise UpsrError(
            f"{path}: holds the denoiser alone; name the file of g too (--g, g=), for example atd_real.pth, "
            "or the folder of its run or saved pipeline"
        )
    return {**RELEASED, "path": {"pretrain_network_g": str(path), "pretrain_network_aux": str(beside)}}
