"""Seconds for one photo: the models of docs/quality.md by turns in one process, through the pipeline as upsr upscale takes it."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from common import machine

from upsr import UPSRPipeline
from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write
from upsr.errors import exiting

EXAMPLES = """examples:
  python benchmarks/photo_time.py                                             the shipped models
  python benchmarks/photo_time.py --models tiny tiny-1 RealESRGAN_x4plus.pth --sizes 64 128 256 --repeats 5"""


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--models", nargs="+", default=["tiny", "tiny-1"], metavar="WEIGHTS", help="(tiny tiny-1)")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[64, 128, 256], metavar="N", help="LR sides (64 128 256)"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="of which the median is told (5)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch (its own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times there, too")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    pipelines = {Path(name).stem: UPSRPipeline.from_pretrained(name) for name in given.models}
    times = {size: measured(pipelines, size, given.repeats) for size in given.sizes}
    here = machine(next(iter(pipelines.values())).device)
    print(f"{here}; medians of {given.repeats}, seconds\n")
    print(f"| model | {' | '.join(f'{size} x {size}' for size in times)} |")
    print(f"|---|{'---:|' * len(times)}")
    for name in pipelines:
        print(f"| {name} | {' | '.join(f'{by_model[name]:.2f}' for by_model in times.values())} |")
    if given.json is not None:
        with atomic_write(given.json) as path:
            path.write_text(json.dumps({"seconds": times, "machine": here}, indent=1))


def measured(pipelines: dict[str, UPSRPipeline], size: int, repeats: int) -> dict[str, float]:
    """Median seconds by model, each repeated in turn after one photo to warm up."""
    photo = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(repeats + 1):
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            pipeline(photo, seed=turn)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
