"""The authors' weight files, recognised by the tensors in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upsr.errors import UpsrError

_OF_DENOISERS = {"input_blocks.0.0.weight", "conv_last.weight"}
"""The first layer of the body, and the last of the upsampling tail, which other denoisers with such a body have not."""

RELEASED: dict[str, Any] = {
    "model_type": "UPSRModel",
    "scale": 4,
    "network_g": {"type": "UNetModelSwin"},
    "network_aux": {"type": "ATD", "upscale": 4},
}
"""The authors' x4 model: the networks' defaults are its shapes."""


def released_options(path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
    """Options of the authors' x4 model for a file of its denoiser.

    Args:
        beside: weights of other parts by their names; those of g are needed.

    Raises:
        UpsrError: the file of g is not named.
    """
    g = beside.get("g")
    if not tensors or (g is None and not _OF_DENOISERS.issubset(tensors)):
        return None
    if g is None:
        raise UpsrError(
            f"{path}: holds the denoiser alone; name the file of g too (--part g=FILE, --g FILE, g=), for example "
            "atd_real.pth, or the folder of its run or saved pipeline"
        )
    return {**RELEASED, "path": {"pretrain_network_g": str(path), "pretrain_network_aux": str(g)}}
