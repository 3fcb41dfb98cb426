"""Makes the picture and the restoration that `upsr doctor` compares devices with; needed when the shipped weights change."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write
from upsr.errors import exiting
from upsr.pipeline.selftest import VECTOR, made

EXAMPLES = """examples:
  OMP_NUM_THREADS=1 python -m scripts.selftest_vector"""

_SIDE, _PLACE = 24, (200, 90, 296, 186)
"""LR pixels of a side, and the part of the photo that they are."""


@exiting
def main() -> None:
    ArgumentParser(description=__doc__, epilog=EXAMPLES).parse_args()
    with Image.open(str(files("skimage") / "data" / "astronaut.png")) as file:
        small = file.convert("RGB").crop(_PLACE).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    lq = torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
    with atomic_write(VECTOR) as temporary:
        save_file({"lq": lq, "restored": made(lq)}, temporary)
    print(f"{VECTOR.name}: {VECTOR.stat().st_size} bytes")


if __name__ == "__main__":
    main()
