"""See what the degradation of an option file makes of your images.

examples:
  python scripts/preview_degradation.py --input datasets/photos --output preview.png
  python scripts/preview_degradation.py -opt options/000_UPSR_RealSR_x4.yml --input datasets/photos --output preview.png \\
      --count 12 --seed 7

Each row of the picture is one image: the HR crop, then its LR versions at several training steps, enlarged without smoothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from upsr.config import load_options
from upsr.config.schema_data import DegradationOptions
from upsr.data import RealESRGANDataset, RealESRGANDegradation, SampleId
from upsr.data.image_io import to_uint8, write_png
from upsr.data.loader import collate
from upsr.errors import UpsrError

_GAP = 4


def contact_sheet(
    folder: str, degradation: DegradationOptions, *, scale: int, count: int, versions: int, size: int, seed: int
) -> np.ndarray:
    """(H, W, 3) uint8: one row an image, the HR crop followed by ``versions`` degraded ones."""
    dataset = RealESRGANDataset(folder, gt_size=size)
    dataset.bind(seed, degradation)
    degrade = RealESRGANDegradation(degradation, scale)
    columns: list[torch.Tensor] = []
    slots = range(min(count, len(dataset)))
    for version in range(versions):
        batch = collate([dataset[SampleId(version, index)] for index in slots])
        if version == 0:
            first = batch["gt"].float() / 255
            columns.append(first)
        # The crop stays the same, the kernels and the decisions change: that is what is to be seen.
        lq = torch.cat(
            [
                degrade(
                    first[slot : slot + 1],
                    batch["kernels"][slot : slot + 1],
                    slots=[slot * degradation.decision_group],
                    keys=[seed, "preview", version],
                )
                for slot in slots
            ]
        )
        columns.append(lq.repeat_interleave(scale, -1).repeat_interleave(scale, -2))
    padded = [torch.nn.functional.pad(column, (0, _GAP, 0, _GAP), value=1.0) for column in columns]
    sheet = torch.cat(padded, dim=-1)
    return to_uint8(torch.cat(list(sheet), dim=-2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-opt", "--opt", metavar="FILE.yml", help="option file; by default the released degradation at x4"
    )
    parser.add_argument("--input", required=True, help="folder of images")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--count", type=int, default=6, help="images (default 6)")
    parser.add_argument("--versions", type=int, default=5, help="degraded versions of each (default 5)")
    parser.add_argument("--size", type=int, default=256, help="side of the HR crop (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="other crops, kernels and decisions (default 0)")
    given = parser.parse_args()
    try:
        opt = load_options(given.opt) if given.opt else None
        sheet = contact_sheet(
            given.input,
            opt.degradation if opt else DegradationOptions(),
            scale=opt.scale if opt else 4,
            count=given.count,
            versions=given.versions,
            size=given.size,
            seed=given.seed,
        )
        write_png(given.output, sheet)
    except UpsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
