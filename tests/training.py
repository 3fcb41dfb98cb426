"""Option mappings of tiny training runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from tests import tiny
from upsr.archs import ATD
from upsr.config.load import merged


def tiny_options(root: Path, photos: Path, **changes: Any) -> dict[str, Any]:
    """Stage two on tiny networks; g has random weights. ``changes`` are merged section by section."""
    g = root / "g.pth"
    if not g.exists():
        torch.manual_seed(0)
        torch.save({"params": ATD(**tiny.ATD).state_dict()}, g)
    options = {
        "name": "run",
        "model_type": "UPSRModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "pair_pool": {"pairs_per_slot": 2},
        "datasets": {
            "train": {"type": "RealESRGANDataset", "dataroot_gt": str(photos), "gt_size": 64, "batch_size_per_gpu": 2}
        },
        "network_g": {"type": "UNetModelSwin", **copy.deepcopy(tiny.UNET)},
        "network_aux": {"type": "ATD", **copy.deepcopy(tiny.ATD)},
        "diffusion": {"sampler": {"steps": 2}},  # a validation takes most of the time of a run
        "path": {
            "pretrain_network_aux": str(g),
            "experiments_root": str(root / "experiments"),
            "results_root": str(root / "results"),
        },
        "train": {
            "total_iter": 4,
            "warmup_iter": 10,
            "optim_g": {"type": "AdamW", "lr": 1e-3},
            "pixel_opt": {"type": "MSELoss"},
        },
        "val": {"val_freq": 1000, "metrics": {"psnr": {"type": "PSNR"}, "ssim": {"type": "SSIM"}}},
        "logger": {
            "print_freq": 1,
            "save_checkpoint_freq": 1000,
            "use_tb_logger": False,
            "weight_formats": ["safetensors", "pth"],
        },
    }
    return merged(options, changes)


def common_options(root: Path, photos: Path) -> dict[str, Any]:
    """What :func:`tiny_options` says that is not of UPSR alone, for another method to add to."""
    data = tiny_options(root, photos)
    for key in ("model_type", "network_aux", "network_g", "diffusion"):
        del data[key]
    del data["train"]["pixel_opt"], data["path"]["pretrain_network_aux"]
    return data


def equal_states(a: Any, b: Any) -> bool:
    """Two parts of checkpoints are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal_states(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal_states(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


CLEAN_STAGE = {
    "blur_prob": 0.0,
    "resize_prob": [0, 0, 1],
    "noise_range": [0, 0],
    "gaussian_noise_prob": 1.0,
    "jpeg_range": [100, 100],
}
"""A degradation that only reduces, for what has to be learnt quickly."""
