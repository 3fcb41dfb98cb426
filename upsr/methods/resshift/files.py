"""Released weight files of ResShift and SinSR, recognised by the tensors in them and by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upsr.errors import UpsrError
from upsr.weights.catalogue import fetch_hint

_TENSORS = {"input_blocks.0.0.weight", "out.2.weight"}
_AUTOENCODER = "autoencoder_vq_f4.pth"

_FIFTEEN = {"steps": 15, "min_noise_level": 0.04}
_FOUR = {"steps": 4, "min_noise_level": 0.2}
_BY_NAME: dict[str, dict[str, Any]] = {
    "sinsr": {**_FIFTEEN, "one_step": True},
    "_s15": _FIFTEEN,
    "_s4": _FOUR,
}
"""The schedule by a piece of the file's name: the networks are the same."""


def released_options(path: Path, tensors: Sequence[str], autoencoder: Path | None) -> dict[str, Any] | None:
    """Options of the released x4 model that a file of its denoiser belongs to.

    Args:
        autoencoder: its file; by default the one beside ``path`` under its released name.

    Raises:
        UpsrError: neither the file's name nor its folder says what is missing.
    """
    if not _TENSORS.issubset(tensors):
        return None
    diffusion = next((d for piece, d in _BY_NAME.items() if piece in path.stem.lower()), None)
    if diffusion is None:
        raise UpsrError(
            f"{path}: holds a denoiser of ResShift, and nothing inside says of which schedule; keep the released name, with "
            f"{', '.join(_BY_NAME)} in it, or use an option file of options/resshift"
        )
    autoencoder = path.with_name(_AUTOENCODER) if autoencoder is None else autoencoder
    if not autoencoder.is_file():
        raise UpsrError(
            f"{path}: holds the denoiser alone, and {autoencoder} is not here; put the released {_AUTOENCODER} there, or name "
            f"its file (--part autoencoder=FILE){fetch_hint([autoencoder])}"
        )
    return {
        "method": "resshift",
        "scale": 4,
        "network_g": {"type": "ResShiftUNet"},
        "diffusion": diffusion,
        "path": {"pretrain_network_g": str(path), "pretrain_autoencoder": str(autoencoder)},
    }
