"""What a result came from: versions, machine, digests of files and options."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path, PurePath
from typing import Any

import torch

import upsr
from upsr.busy import cores
from upsr.devices import device_name, is_cuda

_PACKAGES = ("torchvision", "numpy", "pillow", "basicsr", "pyiqa", "spandrel", "diffusers", "openvino")


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package, Python and what numbers depend on, ``packages`` too; those not installed are absent."""
    # torch's own word also says which CUDA it was built for.
    found = {"upsr": upsr.__version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    for package in (*_PACKAGES, *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """The processor, and the accelerator if that is what ``device`` is."""
    facts: dict[str, Any] = {
        "system": platform.system(),
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }
    if device.type != "cpu":
        facts["gpu"] = device_name(device)
    if is_cuda(device):
        facts |= {"rocm": torch.version.hip} if torch.version.hip else {"cuda": torch.version.cuda}
    return facts


def processor() -> str:
    """Name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def file_digest(path: str | Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def without_folders(path: str | Path) -> str:
    """A path as it was given; of an absolute one the name alone, for files and pages that strangers see."""
    return PurePath(path).name if PurePath(path).is_absolute() else str(path)


def weights_digest(network: torch.nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of a network's state, whatever file it came from."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of(content: Any) -> str:
    """sha256 of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
