"""Seconds for one photo while other programs use the cores, by how the threads wait for each other and how many there are.

Each time is of a process of its own, because OpenMP reads its variables once; the settings take turns, so that what else the
machine does meets all of them alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write
from upsr.errors import exiting

EXAMPLES = """examples:
  python benchmarks/busy.py                                        0, 1 and 2 busy programs beside the photo
  python benchmarks/busy.py --busy 0 4 --turns 5 --json busy.json"""

SETTINGS = {
    "libgomp's own (spins 300000 times)": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "as upsr upscale does": {},
}
"""Variables of the environment by the name of a row."""

_VARIABLES = {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}

_PHOTO = """
import json, sys, time
import upsr
import numpy as np, torch
from upsr import UPSRPipeline
from upsr.busy import busy_cores, fit_threads

if sys.argv.pop() == "fit":
    fit_threads(busy_cores())

side, repeats = map(int, sys.argv[1:])
pipeline = UPSRPipeline.from_pretrained("tiny-1", dtype="float32", device="cpu")
photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
seconds = []
for turn in range(repeats + 1):
    start = time.perf_counter()
    pipeline(photo, seed=0)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds[1:]))
"""


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    about = "programs that use a core each meanwhile (0 1 2)"
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1, 2], metavar="N", help=about)
    parser.add_argument("--size", type=int, default=160, metavar="N", help="LR side of the photo (160)")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="processes of each setting (3)")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="photos of a process, after one to warm up (3)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times there, too")
    given = parser.parse_args()
    times: dict[str, dict[int, list[float]]] = {name: {busy: [] for busy in given.busy} for name in SETTINGS}
    for _ in range(given.turns):
        for busy in given.busy:
            with busy_programs(busy):
                for name, variables in SETTINGS.items():
                    times[name][busy] += photo_seconds(variables, given.size, given.repeats)
    print(f"{given.size} x {given.size}, {len(os.sched_getaffinity(0))} cores; load before: {os.getloadavg()[0]:.1f}\n")
    print(f"| setting | {' | '.join(f'{busy} busy: median (least, most)' for busy in given.busy)} |")
    print(f"|---|{'---:|' * len(given.busy)}")
    for name, found in times.items():
        cells = (f"{statistics.median(s):.2f} ({min(s):.2f}, {max(s):.2f})" for s in found.values())
        print(f"| {name} | {' | '.join(cells)} |")
    if given.json is not None:
        with atomic_write(given.json) as path:
            path.write_text(json.dumps(times, indent=1))


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def photo_seconds(variables: dict[str, str], side: int, repeats: int) -> list[float]:
    """Seconds of each photo in a process with these variables and none other of OpenMP's."""
    inherited = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    command = [sys.executable, "-c", _PHOTO, str(side), str(repeats), "plain" if variables else "fit"]
    done = subprocess.run(command, env={**inherited, **variables}, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
