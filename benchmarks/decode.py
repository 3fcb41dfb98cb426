"""Which decoder is fastest, and when it pays to decode only a part: the measurements behind upsr/data/image_io.py.

example:
  python benchmarks/decode.py

One thread, as a loader process has. Every decoder must give the same pixels, or it is not in the table.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from importlib.resources import files

import cv2
import numpy as np
import torch
from common import machine
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from upsr.data import image_io
from upsr.timing import timed

CROP = 256
CPU = torch.device("cpu")


def encoded(size: tuple[int, int], kind: str) -> bytes:
    """A photo of a size as JPEG or PNG."""
    with Image.open(str(files("skimage") / "data" / "astronaut.png")) as file:
        photo = file.convert("RGB").resize(size)
    buffer = io.BytesIO()
    photo.save(buffer, kind, quality=92)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as file:
        return np.asarray(file.convert("RGB"))


def by_opencv(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def by_torchvision(data: bytes) -> np.ndarray:
    return (
        decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0).numpy()
    )


def by_vips(data: bytes, top: int, left: int) -> np.ndarray:
    import pyvips

    image = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="truncated")
    return image.crop(left, top, CROP, CROP).numpy()


WHOLE: dict[str, Callable[[bytes], np.ndarray]] = {
    "Pillow": by_pillow,
    "OpenCV": by_opencv,
    "torchvision": by_torchvision,
    "upsr": lambda data: image_io.decode_image(data, 3, "benchmark"),
}


def part_of(whole: Callable[[bytes], np.ndarray]) -> Callable[[bytes, int, int], np.ndarray]:
    return lambda data, top, left: whole(data)[top : top + CROP, left : left + CROP]


PART: dict[str, Callable[[bytes, int, int], np.ndarray]] = {
    "torchvision, whole": part_of(by_torchvision),
    "libvips, part": by_vips,
    "upsr": lambda data, top, left: image_io.decode_region(data, 3, "benchmark", top, left, CROP),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of each (default 20)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{machine(CPU)}\n\n| image | what | decoder | median ms |\n|---|---|---|---|")
    for size, kind in (((500, 375), "JPEG"), ((2040, 1356), "JPEG"), ((500, 375), "PNG"), ((2040, 1356), "PNG")):
        data = encoded(size, kind)
        name, expected = f"{kind} {size[0]} x {size[1]}", by_pillow(data)
        for decoder, decode in WHOLE.items():
            check(decoder, decode(data), expected)
            seconds = timed(lambda d=decode, x=data: d(x), CPU, repeats).median
            print(f"| {name} | whole | {decoder} | {1e3 * seconds:.2f} |")
        corners = np.random.default_rng(0).integers(0, [size[1] - CROP, size[0] - CROP], (repeats, 2)).tolist()
        for decoder, decode_part in PART.items():
            for top, left in corners[:3]:
                check(decoder, decode_part(data, top, left), expected[top : top + CROP, left : left + CROP])
            run = [timed(lambda d=decode_part, c=c, x=data: d(x, *c), CPU, 1, warmup=0).median for c in corners]
            print(f"| {name} | a random {CROP} x {CROP} | {decoder} | {1e3 * float(np.median(run)):.2f} |")
    return 0


def check(decoder: str, actual: np.ndarray, expected: np.ndarray) -> None:
    if not np.array_equal(actual, expected):
        raise SystemExit(f"{decoder} gives other pixels")


if __name__ == "__main__":
    sys.exit(main())
