"""Peak memory and time of `upsr upscale`'s work over the size of the photo, each size in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

CODE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from upsr.inference.photo import Photo
from upsr.inference.photo_io import write_photo
from upsr.inference.pipeline import Settings, UPSRPipeline

side, weights, tile, target = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
pipe = UPSRPipeline.from_pretrained(weights, device="cpu")
photo = Photo((np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8),), "PNG")
began = time.perf_counter()
write_photo(Path(target), pipe.upscale(photo, Settings(tile=tile, steps=int(sys.argv[5]))))
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 512, 1024, 2048, 4096], help="of the results")
    parser.add_argument("--weights", default="tiny")
    parser.add_argument(
        "--tile", type=int, default=128, help="side of tiles in LR pixels; the last column has no tiles"
    )
    parser.add_argument(
        "--whole", nargs="*", type=int, default=[256, 512, 1024, 2048], help="sides to try without tiles"
    )
    parser.add_argument("--steps", type=int, default=1, help="network calls (1: more take time, not memory)")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where results are written")
    given = parser.parse_args()
    print("| result | tiled, GiB | seconds | without tiles, GiB | seconds |\n|---|---:|---:|---:|---:|")
    for side in given.sides:
        cells = []
        for tile, sides in ((given.tile, given.sides), (None, given.whole)):
            cells += measured(side, given, tile) if side in sides else ["-", "-"]
        print(f"| {side} x {side} | {' | '.join(cells)} |", flush=True)
    return 0


def measured(side: int, given: argparse.Namespace, tile: int | None) -> list[str]:
    """Peak memory and seconds, as cells of a table."""
    arguments = [str(side // 4), given.weights, json.dumps(tile), str(given.folder / "memory.png"), str(given.steps)]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        return ["failed", "-"]
    found = json.loads(done.stdout)
    return [f"{found['peak'] / 2**30:.2f}", f"{found['seconds']:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
