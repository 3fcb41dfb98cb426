"""Option mappings of a tiny Diff-SR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import training
from upsr.config.load import merged

UNET: dict[str, Any] = {
    "type": "DiffusersUNet2D", "sample_size": 32, "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8,
}  # fmt: skip


def tiny_options(root: Path, photos: Path, **changes: Any) -> dict[str, Any]:
    """A mapping of options; the denoiser has random weights."""
    data = training.common_options(root, photos)
    del data["pair_pool"]
    own = {
        "method": "diffsr", "network_g": dict(UNET), "path": {"allow_random_weights": True}, "sampler": {"steps": 4},
        "datasets": {"train": {"gt_size": 32}},
    }  # fmt: skip
    return merged(merged(data, own), changes)
