"""List the images of a folder that are readable and large enough, for a dataset's meta_info.

example:
  python -m scripts.prepare.make_meta_info --input datasets/ImageNet/train --output datasets/imagenet.txt --min-size 256
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from upsr.atomic import atomic_write
from upsr.data.survey import survey
from upsr.errors import UpsrError


def make_meta_info(source: Path, target: Path, min_size: int, workers: int = 1) -> list[tuple[str, str]]:
    """Write ``name (h,w,c)`` lines; returns (name, reason) of the images left out.

    Args:
        min_size: smallest side that an image may have.
        workers: processes that decode.
    """
    left_out, lines = [], []
    for found in survey(source, workers):
        if found.size is None:
            left_out.append((found.key, found.fault))
        elif min(found.size) < min_size:
            left_out.append((found.key, f"{found.size[1]}x{found.size[0]} is smaller than {min_size}"))
        else:
            lines.append(f"{found.key} ({found.size[0]},{found.size[1]},3)\n")
    with atomic_write(target) as path:
        path.write_text("".join(lines), encoding="utf-8")
    return left_out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of images, searched at any depth")
    parser.add_argument("--output", type=Path, required=True, help="text file to write")
    parser.add_argument("--min-size", type=int, default=1, help="leave out images with a smaller side (default 1)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    arguments = parser.parse_args()
    try:
        left_out = make_meta_info(arguments.input, arguments.output, arguments.min_size, arguments.workers)
    except UpsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in left_out:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
