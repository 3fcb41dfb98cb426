"""What the benchmarks share: the machine's name, timing, a training run on photos that are inside scikit-image."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
import torchvision
from PIL import Image

from upsr.config import Options, load_options

REPOSITORY = Path(__file__).parents[1]
FULL_SIZE = REPOSITORY / "options" / "000_UPSR_RealSR_x4.yml"
IMAGENET_SIZE = (500, 375)


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.4f} | {min(self.seconds):.4f} | {max(self.seconds):.4f}"


def timed(run: Callable[[], object], device: torch.device, repeats: int, warmup: int = 2) -> Timing:
    """Time a function from an idle device to an idle device, after ``warmup`` runs that are not counted."""

    def once() -> float:
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        return time.perf_counter() - start

    for _ in range(warmup):
        once()
    return Timing([once() for _ in range(repeats)])


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float | None:
    """Peak of the allocator since the last reset; ``None`` on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def machine(device: torch.device) -> str:
    """Device and versions."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()}, {torch.get_num_threads()} threads"
    )
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """Name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def photos(folder: Path, count: int = 8) -> Path:
    """JPEGs of ImageNet's usual size, made of a photo inside scikit-image."""
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(str(files("skimage") / "data" / "astronaut.png")) as file:
        photo = file.convert("RGB")
    for i in range(count):
        photo.rotate(3 * i).resize(IMAGENET_SIZE).save(folder / f"{i}.jpg", quality=92)
    return folder


def training_options(folder: Path, option_file: Path, changes: Sequence[str], *, lpips: bool) -> Options:
    """Options of a training on :func:`photos` with random weights, LPIPS's backbone among them."""
    backbone = folder / "vgg.pth"
    if lpips and not backbone.exists():
        torch.save(torchvision.models.vgg16(weights=None).state_dict(), backbone)
    perceptual = f"{{type: LPIPSLoss, loss_weight: 0.5, net: vgg, backbone_path: {backbone}}}" if lpips else "null"
    return load_options(
        option_file,
        [
            f"datasets.train.dataroot_gt={photos(folder / 'photos')}",
            "datasets.train.meta_info=null",
            "datasets.val_1=null",
            "path.pretrain_network_aux=null",
            "path.allow_random_weights=true",
            f"train.perceptual_opt={perceptual}",
            *changes,
        ],
    )
