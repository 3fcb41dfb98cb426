"""How the time of upscaling grows with the size of a photo and with the number of photos: a table and a plot.

examples:
  python benchmarks/scaling.py                                         # UPSR-tiny, 64 x 64 to 1024 x 1024 LR
  python benchmarks/scaling.py --weights run_folder --steps 1 --plot scaling.png
  python benchmarks/scaling.py --weights full --dtype float32 --sizes 64 128 256 512 --batches 1
  python benchmarks/scaling.py --device cuda --batches 1 2 4 8 16 32

Photos are random; tiles are what `upsr upscale` would choose. Each size is timed `--rounds` times, alternating, and the median
counts. "Relative" is the time of a pixel over the mean of all rows: 1 everywhere would be a straight line through zero.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, pipeline_of

from upsr.images.photo import Photo
from upsr.pipeline.settings import Settings
from upsr.timing import timed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny", help="as for upsr upscale, or full, at random (tiny)")
    parser.add_argument("--g", help="as for upsr upscale")
    parser.add_argument("--device", default="auto", help="cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="as for upsr upscale")
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="network calls (1)")
    parser.add_argument("--tile", type=int, metavar="N", help="side of tiles (what fits)")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256, 512, 1024], metavar="N", help="LR sides")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8], metavar="N", help="images of 64 x 64")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="timed runs of each (3)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw them")
    given = parser.parse_args()
    pipe = pipeline_of(given.weights, g=given.g, device=given.device, dtype=given.dtype)
    settings = pipe.settled(Settings.of(steps=given.steps, tile=given.tile or "auto"))

    def of_size(side: int) -> Callable[[], Any]:
        pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
        return lambda: pipe.upscale(Photo((pixels,), "PNG"), settings)

    model = pipe.method.adjusted(steps=given.steps)

    def of_batch(count: int) -> Callable[[], Any]:
        lq = torch.rand(count, 3, 64, 64, device=pipe.device)
        noise = torch.randn(count, 48, 64, 64, device=pipe.device)
        return torch.inference_mode()(lambda: model.restore(lq, lambda k: noise))

    print(f"{machine(pipe.device)}; {given.weights}, {given.steps} step(s), tile {settings.tile}\n")
    by_size = seconds({side**2: of_size(side) for side in given.sizes}, pipe.device, given.rounds)
    print(table("LR pixels", by_size, {side**2: f"{side} x {side}" for side in given.sizes}))
    by_batch = seconds({count: of_batch(count) for count in given.batches}, pipe.device, given.rounds)
    print(table("images of 64 x 64", by_batch, {count: str(count) for count in given.batches}))
    if given.plot:
        draw(given.plot, by_size, by_batch)
    return 0


def seconds(runs: dict[int, Callable[[], Any]], device: torch.device, rounds: int) -> dict[int, float]:
    """Median of each, alternating."""
    found: dict[int, list[float]] = {amount: [] for amount in runs}
    for amount, run in runs.items():
        timed(run, device, 1, warmup=0)
        print(f"warmed up for {amount}", file=sys.stderr)
    for _ in range(rounds):
        for amount, run in runs.items():
            found[amount] += timed(run, device, 1, warmup=0).seconds
    return {amount: statistics.median(times) for amount, times in found.items()}


def table(what: str, measured: dict[int, float], names: dict[int, str]) -> str:
    """Seconds, and how far from proportional they are."""
    mean = statistics.mean(time / amount for amount, time in measured.items())
    lines = [f"| {what} | seconds | relative |", "|---|---:|---:|"]
    lines += [f"| {names[amount]} | {time:.3f} | {time / amount / mean:.2f} |" for amount, time in measured.items()]
    return "\n".join(lines) + "\n"


def draw(path: Path, by_size: dict[int, float], by_batch: dict[int, float]) -> None:
    """Both on logarithmic axes, beside straight lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, measured, label in zip(axes, (by_size, by_batch), ("LR pixels", "images of 64 x 64"), strict=True):
        _line(axis, list(measured), list(measured.values()), label)
    figure.savefig(path, dpi=110)


def _line(axis: Any, amounts: Sequence[int], times: Sequence[float], label: str) -> None:
    slope = statistics.mean(time / amount for amount, time in zip(amounts, times, strict=True))
    axis.loglog(amounts, [slope * amount for amount in amounts], "--", color="0.6", label="proportional")
    axis.loglog(amounts, times, "o-", label="measured")
    axis.set_xlabel(label)
    axis.set_ylabel("seconds")
    axis.grid(which="both", alpha=0.3)
    axis.legend()


if __name__ == "__main__":
    sys.exit(main())
