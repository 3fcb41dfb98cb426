"""Where the time of a network of ours goes, operator by operator, and what each could save beside the plain form.

examples:
  python benchmarks/operators.py g                     # the full size, 64 x 64 LR, float32
  python benchmarks/operators.py denoiser --dtype bfloat16 --size 128 --rounds 10

Ours and plain take turns and their medians count; the shares are of torch's profiler, of the time inside operators in other
calls. "Without it" is how many times as fast as plain ours would be if the operator took no time: the bound of any better form.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from cases import SECTIONS, Setting
from common import machine
from torch.profiler import ProfilerActivity, profile

from upsr.engine.setup import configure_backends
from upsr.timing import timed

SHOWN = 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["g", "denoiser"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of ours (float32)")
    parser.add_argument("--size", type=int, default=64, metavar="N", help="side of the LR image (64)")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="turns (8)")
    given = parser.parse_args()
    device = torch.device("cpu")
    configure_backends(device)
    setting = Setting(device, getattr(torch, given.dtype), [given.size], [1], "none")
    (case,) = SECTIONS[given.network](setting)
    assert case.plain is not None
    for run in (case.ours, case.plain):
        timed(run, device, 1, warmup=2)
    turns = [[timed(run, device, 1, warmup=0).median for run in (case.ours, case.plain)] for _ in range(given.rounds)]
    ours, plain = map(statistics.median, zip(*turns, strict=True))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(given.rounds):
            case.ours()
    found = sorted(profiled.key_averages(), key=lambda operator: -operator.self_cpu_time_total)
    total = sum(operator.self_cpu_time_total for operator in found)
    print(f"{machine(device)}; {case.name}: {ours:.3f} s, plain {plain:.3f} s, {plain / ours:.2f} times as fast\n")
    print("| operator | calls | share | without it |\n|---|---:|---:|---:|")
    for operator in found[:SHOWN]:
        share = operator.self_cpu_time_total / total
        bound = plain / (ours * (1 - share))
        print(f"| `{operator.key}` | {operator.count // given.rounds} | {share:.1%} | {bound:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
