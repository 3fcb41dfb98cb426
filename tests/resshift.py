"""Small networks of ResShift, with golden weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.golden_recipe import fill

TINY = {"model_channels": 32, "swin_embed_dim": 32, "num_head_channels": 16}
TINY_B = {
    "image_size": 32, "lq_size": 64, "model_channels": 32, "swin_embed_dim": 64, "num_head_channels": 16,
    "attention_resolutions": (32, 8, 4), "num_res_blocks": (1, 2, 1, 1), "mlp_ratio": 2.0,
}  # fmt: skip
VQ_TINY = {"ch": 32, "n_embed": 32}


def released_vq(**arguments: object) -> nn.Module:
    """An autoencoder with golden weights, by the names of its released file."""
    pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[latent]'")
    from upsr.codecs import VQAutoencoder

    codec = VQAutoencoder(**arguments)  # type: ignore[arg-type]
    for name, value in codec.other_layouts()[1].items():
        value.copy_(fill(name, tuple(value.shape)))
    return codec.eval()


OPTIONS: dict[str, Any] = {
    "method": "resshift",
    "network_g": {
        "type": "ResShiftUNet", "image_size": 16, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
        "attention_resolutions": [16], "swin_embed_dim": 32,
    },
    "autoencoder": {"type": "VQAutoencoder", "ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "n_embed": 64},
    "diffusion": {"steps": 4, "min_noise_level": 0.2},
}  # fmt: skip
"""Options of a tiny ResShift beside what :func:`tests.training.tiny_options` has for every method."""


def tiny_options(root: Path, photos: Path, **changes: Any) -> dict[str, Any]:
    """A mapping of options; both networks have random weights."""
    from tests import training
    from upsr.config.load import merged

    data = training.common_options(root, photos)
    return merged(
        merged({**data, "path": {**data["path"], "allow_random_weights": True}}, copy.deepcopy(OPTIONS)), changes
    )
