"""What speed costs: other precisions, fewer steps where little is left to do, beside float32 with all steps.

examples:
  python benchmarks/tradeoffs.py                                        # photos inside scikit-image, UPSR-tiny
  python benchmarks/tradeoffs.py --photos datasets/Set14/HR --tile 64 --adaptive 0.002 0.004 0.008
  python benchmarks/tradeoffs.py --lq datasets/RealSet65 --count 65 --dtypes --adaptive 0.008
  python benchmarks/tradeoffs.py --device cuda --dtypes bfloat16 float16 --weights run_folder

Photos are reduced fourfold (bicubic) and upscaled again; those of --lq are upscaled as they are. "RMS" is the difference from
float32 with all steps, of all photos and of the worst one; --adaptive bounds it. "Within a level" is the share of values that
differ from float32 by less than 1/255; PSNR and SSIM are against the photo, on luma, 4 pixels at the borders left out.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine
from PIL import Image

from upsr.devices import synchronise
from upsr.metrics import PSNR, SSIM
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.pipeline.settings import Settings

REFERENCE = "float32, all steps"
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="HR photos (some inside scikit-image)")
    parser.add_argument("--lq", type=Path, metavar="FOLDER", help="LR photos instead, without PSNR and SSIM")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="photos at most (4)")
    parser.add_argument("--weights", default="tiny", help="as for upsr upscale (tiny)")
    parser.add_argument("--g", help="as for upsr upscale")
    parser.add_argument("--device", default="auto", help="cpu or cuda")
    parser.add_argument("--tile", type=int, default=64, metavar="N", help="side of tiles (64)")
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16"], help="(bfloat16)")
    parser.add_argument("--adaptive", nargs="*", type=float, default=[0.004, 0.008, 0.012, 0.016], metavar="BOUND")
    given = parser.parse_args()
    make = partial(UPSRPipeline.from_pretrained, given.weights, g=given.g, device=given.device)
    pipe = make(dtype="float32")
    settings = pipe.settled(Settings(tile=given.tile))
    pairs = list(photos(given.lq or given.photos, given.count, reduced=given.lq is None))
    forms: dict[str, Form] = {REFERENCE: (pipe, settings)}
    forms |= {f"adaptive {bound:g}": (pipe, replace(settings, knobs={"adaptive": bound})) for bound in given.adaptive}
    forms |= {dtype: (make(dtype=dtype), settings) for dtype in given.dtypes}
    found = upscaled(forms, pairs)
    print(f"{machine(pipe.device)}; {given.weights}, tile {given.tile}, {len(pairs)} photos\n")
    print(
        "| what | seconds | time saved | RMS (worst photo) | PSNR to it | largest difference | within a level | PSNR | SSIM |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, result in found.items():
        print(line(name, result, found[REFERENCE], pairs))
    return 0


Pair = tuple[np.ndarray | None, np.ndarray]
"""A photo, where there is one of the result's size, and what is upscaled."""


def photos(folder: Path | None, count: int, *, reduced: bool) -> Iterator[Pair]:
    """Photos, cut to multiples of 4, and a quarter of their size; or photos that are upscaled themselves."""
    if folder is None:
        from skimage import data

        images = [Image.fromarray(getattr(data, name)()) for name in PHOTOS]
    else:
        images = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())[:count]]
    for image in images[:count]:
        if not reduced:
            yield None, np.asarray(image)
            continue
        width, height = (side // 4 * 4 for side in image.size)
        hr = image.crop((0, 0, width, height))
        yield np.asarray(hr), np.asarray(hr.resize((width // 4, height // 4), Image.Resampling.BICUBIC))


Form = tuple[UPSRPipeline, Settings]
Result = tuple[float, list[torch.Tensor]]
"""Seconds, and the images, (C, H, W) in [0, 1], before they are rounded to bytes."""


def upscaled(forms: dict[str, Form], pairs: list[Pair]) -> dict[str, Result]:
    """The photos in each form, by turns, so that what else the machine does meets all of them."""
    seconds = dict.fromkeys(forms, 0.0)
    images: dict[str, list[torch.Tensor]] = {name: [] for name in forms}
    for pipe, settings in forms.values():
        pipe(pairs[0][1][:64, :64], **given_by(settings))
    for _, lq in pairs:
        deep = lq.astype(np.uint16) * 257
        for name, (pipe, settings) in forms.items():
            synchronise(pipe.device)
            began = time.perf_counter()
            images[name].append(pipe(deep, output_type="pt", **given_by(settings)).images[0])
            seconds[name] += time.perf_counter() - began
    return {name: (seconds[name], images[name]) for name in forms}


def given_by(settings: Settings) -> dict[str, Any]:
    """Settings as arguments of a pipeline."""
    return {"tile": settings.tile, **settings.knobs}


def line(name: str, found: Result, reference: Result, pairs: list[Pair]) -> str:
    """A row of the table."""
    seconds, images = found
    differences = torch.cat([(a - b).abs().flatten() for a, b in zip(images, reference[1], strict=True)])
    errors = [float((a - b).square().mean().sqrt()) for a, b in zip(images, reference[1], strict=True)]
    overall = float(differences.square().mean())
    alike = f"{-10 * math.log10(overall):.1f} dB" if overall else "-"
    error = f"{math.sqrt(overall):.4f} ({max(errors):.4f})"
    within = float((differences < 1 / 255).float().mean())
    gts = [None if hr is None else torch.from_numpy(hr.copy()).permute(2, 0, 1).float() / 255 for hr, _ in pairs]
    known = [(image[None], gt[None]) for image, gt in zip(images, gts, strict=True) if gt is not None]
    quality = [
        format(np.mean([metric(*pair) for pair in known]), digits) if known else ""
        for metric, digits in ((PSNR(crop_border=4), ".2f"), (SSIM(crop_border=4), ".4f"))
    ]
    return (
        f"| {name} | {seconds:.1f} | {1 - seconds / reference[0]:.0%} | {error} | {alike} | {float(differences.max()):.4f} "
        f"| {within:.2%} | {quality[0]} | {quality[1]} |"
    )


if __name__ == "__main__":
    sys.exit(main())
