"""Peak memory and time of `upsr upscale`'s work over the size of the photo, each size in a process of its own.

examples:
  python benchmarks/memory.py                                                    # UPSR-tiny, results of 256 to 4096 pixels
  python benchmarks/memory.py --weights full --sides 2048 --forms tiled plain    # full size, random weights

Forms: in tiles, without tiles, and plain.py's (one step, without tiles, the result not written).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cases import Setting
from common import pipeline_of
from plain import plain_restore

from upsr.images.photo import Photo
from upsr.images.writing import write_photo
from upsr.pipeline.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 512, 1024, 2048, 4096], help="of the results")
    parser.add_argument("--weights", default="tiny", help="as for upsr upscale, or full (tiny)")
    parser.add_argument("--forms", nargs="+", choices=sorted(FORMS), default=["tiled", "whole"], help="(tiled whole)")
    parser.add_argument("--largest", type=int, default=2048, metavar="N", help="side to try without tiles (2048)")
    parser.add_argument("--tile", type=int, default=128, help="about the side of tiles in LR pixels (128)")
    parser.add_argument("--steps", type=int, default=1, help="network calls (1: more take time, not memory)")
    parser.add_argument("--dtype", default="auto", help="as for upsr upscale, but for plain, which is float32 (auto)")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where results are written (/tmp)")
    parser.add_argument("--alone", choices=sorted(FORMS), help="measure one form and one side in this process")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(alone(given)))
        return 0
    print(f"| result | {' | '.join(f'{form}, GiB | seconds' for form in given.forms)} |")
    print("|---|" + "---:|---:|" * len(given.forms))
    for side in given.sides:
        cells = []
        for form in given.forms:
            cells += measured(form, side, given) if form == "tiled" or side <= given.largest else ["-", "-"]
        print(f"| {side} x {side} | {' | '.join(cells)} |", flush=True)
    return 0


def measured(form: str, side: int, given: argparse.Namespace) -> list[str]:
    """Peak memory and seconds, as cells of a table."""
    same = [
        "--weights",
        given.weights,
        "--tile",
        str(given.tile),
        "--steps",
        str(given.steps),
        "--folder",
        str(given.folder),
        "--dtype",
        given.dtype,
    ]
    command = [sys.executable, __file__, "--alone", form, "--sides", str(side), *same]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return ["failed", "-"]
    found = json.loads(done.stdout)
    return [f"{found['peak'] / 2**30:.2f}", f"{found['seconds']:.1f}"]


def alone(given: argparse.Namespace) -> dict[str, float]:
    """Bytes at the peak, and seconds of the work without loading."""
    side = given.sides[0] // 4
    run = FORMS[given.alone](given, np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _upscaling(given: argparse.Namespace, pixels: np.ndarray, tile: int | None) -> Callable[[], None]:
    pipe = pipeline_of(given.weights, device="cpu", dtype=given.dtype)
    settings = Settings.of(tile=tile, steps=given.steps)
    return lambda: write_photo(given.folder / "memory.png", pipe.upscale(Photo((pixels,), "PNG"), settings))


def _plain(given: argparse.Namespace, pixels: np.ndarray) -> Callable[[], object]:
    setting = Setting(torch.device("cpu"), torch.float32, [], [], "none")
    unet, g = setting.unet, setting.g
    model = setting.model.adjusted(steps=given.steps)
    for network in setting.model.parts().values():
        network.to("meta")  # what the plain form does not need is not counted
    lq = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    return lambda: plain_restore(model, unet, g, lq, torch.randn(1, 48, *lq.shape[-2:]))


FORMS: dict[str, Callable[[argparse.Namespace, np.ndarray], Callable[[], object]]] = {
    "tiled": lambda given, pixels: _upscaling(given, pixels, given.tile),
    "whole": lambda given, pixels: _upscaling(given, pixels, None),
    "plain": _plain,
}


if __name__ == "__main__":
    sys.exit(main())
