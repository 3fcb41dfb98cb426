"""A folder with small benchmarks and methods, for tests of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from tests import tiny
from tests.training import tiny_options
from upsr.archs import UNetModelSwin
from upsr.engine.distributed import Runtime
from upsr.evaluation.plan import Plan
from upsr.evaluation.session import run_evaluation

CPU = Runtime(torch.device("cpu"))
UNET = {**tiny.UNET, "attention_resolutions": []}
"""Attention in the middle alone, where time is."""


def write(path: Path, content: Any) -> Path:
    """A YAML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def describe_dataset(root: Path, name: str, files: dict[str, Any], images: int, **more: Any) -> None:
    """datasets/NAME.yml."""
    content = {
        "about": name,
        "get": ["nowhere"],
        "licence": "none",
        "files": files,
        "expected": {"images": images, **more},
    }
    write(root / "datasets" / f"{name}.yml", content)


def workplace(root: Path) -> Path:
    """Two benchmarks, Tiny with ground truth and Wild without, and two methods, a spandrel network and UPSR."""
    tiny.save_pictures(root / "datasets" / "Tiny" / "HR", 5)
    for i in range(5):  # of one size, so that they can be in one batch
        Image.fromarray(tiny.picture(192, 200, i)).save(root / "datasets" / "Tiny" / "HR" / f"photo {i}.png")
    describe_dataset(root, "Tiny", {"type": "BicubicFolderDataset", "dataroot_gt": "HR"}, 5)
    tiny.save_pictures(root / "datasets" / "Wild", 3, size=50)
    describe_dataset(root, "Wild", {"type": "FolderDataset", "dataroot_lq": "."}, 3)
    save_rrdb(root / "weights" / "rrdb.pth")
    write(root / "options/methods/RRDB.yml", {"make": {"type": "Checkpoint", "path": "weights/rrdb.pth"}})
    weights = root / "weights" / "upsr.pth"
    torch.save({"params": tiny.random_weights(UNetModelSwin(**UNET)).state_dict()}, weights)
    options = tiny_options(
        root,
        root,
        path={"pretrain_network_g": str(weights)},
        val={"tile": {"size": 48, "overlap": 8}},
        network_g=UNET,
    )
    write(root / "options" / "tiny_upsr.yml", options)
    write(root / "options/methods/TinyUPSR.yml", {"make": {"type": "OptionFile", "opt": "options/tiny_upsr.yml"}})
    return root


def save_rrdb(path: Path, filters: int = 16, seed: int = 0) -> Path:
    """A real architecture, ESRGAN's, with few filters and random weights."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = RRDBNet(num_filters=filters, num_blocks=1, scale=4)
    weight, bias = list(network.parameters())[-2:]
    with torch.no_grad():  # shades of grey with some texture, so that every metric is defined
        weight.mul_(10)
        bias.add_(0.5)
    torch.save(network.state_dict(), path)
    return path


def run(root: Path, **changes: Any) -> dict[str, Any]:
    """Evaluate in this process, on the CPU; the current folder must be ``root``."""
    plan = {
        "datasets": ("Tiny", "Wild"),
        "methods": ("bicubic", "RRDB", "TinyUPSR"),
        "protocols": ("upsr",),
        "metrics": ("psnr", "ssim", "niqe"),
        "folder": root / "results",
        **changes,
    }
    return run_evaluation(Plan(**plan), CPU)


def means(summary: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Means by method, dataset, protocol and metric."""
    return {(r["method"], r["dataset"], r["protocol"], r["metric"]): r["mean"] for r in summary["results"]}


def values(summary_rows: Any) -> dict[tuple[str, ...], float]:
    """Values by method, dataset, image, protocol and metric."""
    return {(r.method, r.dataset, r.image, r.protocol, r.metric): r.value for r in summary_rows}


def largest_difference(one: dict[Any, float], other: dict[Any, float]) -> float:
    """Of two tables with the same keys."""
    assert one.keys() == other.keys()
    return float(max(np.abs(one[key] - other[key]) for key in one))
