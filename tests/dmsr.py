"""A tiny DM-SR: option mappings on Stable Diffusion of a few layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import training
from tests.stablesr import tiny_backbone
from upsr.config.load import merged

DISCRIMINATOR = {
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
}


def tiny_options(root: Path, photos: Path, **changes: Any) -> dict[str, Any]:
    """A mapping of options of phase dm; all networks have random weights."""
    data = training.common_options(root, photos)
    own = {
        "method": "dmsr",
        "backbone": str(tiny_backbone(root / "sd")),
        "estimator": {"width": 4, "pretrained": None},
        "path": {"allow_random_weights": True},
        "train": {
            "optim_d": {"type": "AdamW", "lr": 1e-3},
            "optim_t": {"type": "AdamW", "lr": 1e-3},
            "discriminator": dict(DISCRIMINATOR),
        },
    }
    return merged(merged(data, own), changes)
