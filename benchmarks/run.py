"""Measures this project beside plain networks, and beside the limits of the machine.

examples:
  python benchmarks/run.py                                     # networks and restoration, full size, float32
  python benchmarks/run.py denoiser g --sizes 64 128 --batches 1 4
  python benchmarks/run.py restore --dtype bfloat16 --json new.json
  python benchmarks/run.py restore --device cuda --batches 32 --dtype bfloat16 --compile max-autotune
  python benchmarks/run.py tiled --sizes 1024 --rounds 1 --warmup 1
  python benchmarks/run.py degradation data train              # parts of a training step
  python benchmarks/check.py old.json new.json                 # what got slower

Ours and plain take turns in one process; times are medians, ratios are of each turn. The limit is the time that the plain
form's operations need at the speed of the machine's own matrix products and copies, both measured here; fewer operations than
the plain form's can go below it. The plain form is upsr/archs, eager in float32; `--plain textbook` is the same with attention as
the papers write it, by products and softmax (benchmarks/textbook.py). Weights are random, which does not change time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from cases import SECTIONS, Setting
from harness import measure
from limits import Limits

from upsr.accelerate.native import library
from upsr.choices import COMPILE_MODES
from upsr.engine.setup import configure_backends

DEFAULT = ("denoiser", "g", "restore")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default {' '.join(DEFAULT)})"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of ours")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64], metavar="N", help="sides of LR images (64)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="images at once (1)")
    parser.add_argument("--compile", choices=COMPILE_MODES, default="none", help="the denoiser of ours (none)")
    parser.add_argument("--plain", choices=["house", "textbook"], default="house", help="what ours is beside (house)")
    parser.add_argument("--no-kernels", action="store_true", help="ours as it is where there is no compiler")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns (5)")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="runs before them (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results, for check.py")
    given = parser.parse_args()
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {unknown[0]}; there are {', '.join(SECTIONS)}")
    if given.no_kernels:
        library.kernels = lambda: "left out"  # type: ignore[assignment]
    device = torch.device(given.device)
    configure_backends(device)
    setting = Setting(device, getattr(torch, given.dtype), given.sizes, given.batches, given.compile, plain=given.plain)
    cases = (case for name in given.sections or DEFAULT for case in SECTIONS[name](setting))
    report = measure(cases, Limits(device), given.rounds, given.warmup)
    print(report.markdown())
    if given.json:
        report.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
