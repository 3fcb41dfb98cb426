"""Time and memory of restoration with the full-size model, as docs/benchmarks.md reports them.

examples:
  python benchmarks/inference.py                                   # what this machine can do in a minute
  python benchmarks/inference.py --device cuda --batch 32 --json result.json

Weights are random, which does not change the time. Medians after warm-up; on CUDA the peak of the allocator's memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from common import FULL_SIZE, machine

from upsr.config import load_options
from upsr.engine.setup import configure_backends
from upsr.inference import restore
from upsr.models import build_model
from upsr.rng import torch_generator
from upsr.timing import peak_gib, timed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, help="images of 64 x 64 (default 32 on CUDA, 1 on the CPU)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs (default 5)")
    parser.add_argument("--json", type=Path, help="also write the result here")
    given = parser.parse_args()
    device = torch.device(given.device)
    configure_backends(device)
    batch = given.batch or (32 if device.type == "cuda" else 1)

    changes = ["path.pretrain_network_aux=null", "path.allow_random_weights=true"]
    model = build_model(load_options(FULL_SIZE, changes), "test").to(device).eval()
    lq = torch.rand(batch, 3, 64, 64, generator=torch_generator("benchmark")).to(device)
    names = [str(i) for i in range(batch)]
    timing = timed(lambda: restore(model, lq, seed=0, names=names), device, given.repeats)
    peak = peak_gib(device)
    print(f"\n{machine(device)}\n")
    print("| what | batch | precision | median s | fastest s | slowest s | peak GiB |\n|---|---|---|---|---|---|---|")
    shown = "-" if peak is None else f"{peak:.2f}"
    print(f"| 5 steps, 64 x 64 LR, with g | {batch} | float32 | {timing} | {shown} |")
    if given.json:
        result = {"machine": machine(device), "batch": batch, "seconds": timing.seconds, "peak_gib": peak}
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
