"""Time and memory of the full-size model: inference and a training iteration, as docs/benchmarks.md reports them.

examples:
  python benchmarks/full_size.py                                   # what this machine can do in a few minutes
  python benchmarks/full_size.py --device cuda --batch 32 --train-batch 16 --amp bf16 --json result.json

Weights are random and LPIPS has a random backbone: neither changes the time. Medians after warm-up; on CUDA the peak of the
allocator's memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

from upsr.config import Options, load_options
from upsr.data.image_io import to_uint8, write_png
from upsr.engine.distributed import Runtime
from upsr.engine.setup import configure_backends
from upsr.engine.train_loop import Trainer
from upsr.inference import restore
from upsr.models import build_model
from upsr.rng import torch_generator

OPTIONS = Path(__file__).parents[1] / "options" / "000_UPSR_RealSR_x4.yml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, help="images of 64 x 64 for inference (default 32 on CUDA, 1 on the CPU)")
    parser.add_argument(
        "--train-batch", type=int, help="crops of 256 x 256 in training (default 16 on CUDA, 1 on the CPU)"
    )
    parser.add_argument(
        "--amp", choices=["fp32", "bf16", "fp16"], help="training precision (default bf16 on CUDA, fp32 on the CPU)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default 5)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    given = parser.parse_args()
    device = torch.device(given.device)
    cuda = device.type == "cuda"
    configure_backends(device)
    amp = given.amp or ("bf16" if cuda else "fp32")
    batch, train_batch = given.batch or (32 if cuda else 1), given.train_batch or (16 if cuda else 1)

    rows = [inference(device, batch, given.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        rows += [training(device, train_batch, amp, lpips, given.repeats, Path(folder)) for lpips in (False, True)]
    print(f"\n{machine(device)}\n")
    print("| what | batch | precision | median s | fastest s | slowest s | peak GiB |\n|---|---|---|---|---|---|---|")
    for row in rows:
        peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}"
        times = f"{row['median_s']:.3f} | {row['min_s']:.3f} | {row['max_s']:.3f}"
        print(f"| {row['what']} | {row['batch']} | {row['precision']} | {times} | {peak} |")
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=2) + "\n")
    return 0


def machine(device: torch.device) -> str:
    """Device and versions."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()}, {torch.get_num_threads()} threads"
    )
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """Name of the CPU, and whether it has the instructions that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measured(
    what: str, batch: int, precision: str, run: Callable[[], object], device: torch.device, repeats: int
) -> dict:
    """Run twice to warm up, then ``repeats`` times."""
    cuda = device.type == "cuda"

    def timed() -> float:
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for _ in range(2):
        timed()
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    times = [timed() for _ in range(repeats)]
    return {
        "what": what,
        "batch": batch,
        "precision": precision,
        "median_s": statistics.median(times),
        "min_s": min(times),
        "max_s": max(times),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None,
    }


def inference(device: torch.device, batch: int, repeats: int) -> dict:
    """Five steps on 64 x 64 LR images, g included, in float32 (TF32 products on CUDA)."""
    changes = ["path.pretrain_network_aux=null", "path.allow_random_weights=true"]
    model = build_model(load_options(OPTIONS, changes), "test").to(device).eval()
    lq = torch.rand(batch, 3, 64, 64, generator=torch_generator("benchmark")).to(device)
    names = [str(i) for i in range(batch)]
    return measured(
        "5 steps, 64 x 64 LR, with g",
        batch,
        "float32",
        lambda: restore(model, lq, seed=0, names=names),
        device,
        repeats,
    )


def training(device: torch.device, batch: int, amp: str, lpips: bool, repeats: int, folder: Path) -> dict:
    """A whole iteration: degradation, g, forward, backward, optimiser, average. Decoding is not in it."""
    opt = training_options(folder, batch, amp, lpips)
    trainer = Trainer(opt, Runtime(device), folder / "run")
    sampler = trainer._sampler()
    batches = [trainer.dataset[sample] for sample in next(iter(sampler))]
    from upsr.data.loader import collate

    data = collate(batches)
    what = f"training iteration, 256 x 256, {'with' if lpips else 'without'} LPIPS"
    return measured(what, batch, amp, lambda: trainer.step([data], sampler), device, repeats)


def training_options(folder: Path, batch: int, amp: str, lpips: bool) -> Options:
    """The released training on one random photo."""
    generator = torch_generator("benchmark", "photo")
    write_png(folder / "photos" / "noise.png", to_uint8(torch.rand(3, 300, 300, generator=generator)))
    backbone = folder / "vgg.pth"
    if lpips and not backbone.exists():
        torch.save(torchvision.models.vgg16(weights=None).state_dict(), backbone)
    changes = [
        f"datasets.train.dataroot_gt={folder / 'photos'}",
        f"datasets.train.batch_size_per_gpu={batch}",
        "datasets.val_1=null",
        "path.pretrain_network_aux=null",
        "path.allow_random_weights=true",
        f"train.amp={amp}",
        f"train.perceptual_opt.backbone_path={backbone}" if lpips else "train.perceptual_opt=null",
    ]
    return load_options(OPTIONS, changes)


if __name__ == "__main__":
    sys.exit(main())
