"""What speed costs: other precisions, fewer steps where little is left to do, beside what `upsr upscale` does by itself.

examples:
  python benchmarks/tradeoffs.py                                        # photos inside scikit-image, UPSR-tiny
  python benchmarks/tradeoffs.py --photos datasets/Set14/HR --tiles 64 128 --adaptive 0.002 0.004 0.008
  python benchmarks/tradeoffs.py --lq datasets/RealSet65 --count 65 --dtype bfloat16 --dtypes --adaptive 0.008
  python benchmarks/tradeoffs.py --device cuda --dtypes bfloat16 float16 --weights run_folder

Photos are reduced fourfold (bicubic) and upscaled again; those of --lq are upscaled as they are. "Time saved" is beside the first
row, all steps in tiles of what fits: small tiles make more work. "RMS" is the difference from all steps in the same tiles, of all
photos and of the worst one; --adaptive bounds it. "Within a level" is the share of values that differ from it by less than 1/255;
PSNR and SSIM are against the photo, on luma, 4 pixels at the borders left out.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="HR photos (some inside scikit-image)")
    parser.add_argument("--lq", type=Path, metavar="FOLDER", help="LR photos instead, without PSNR and SSIM")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="photos at most (4)")
    parser.add_argument("--weights", default="tiny", help="as for upsr upscale (tiny)")
    parser.add_argument("--g", help="as for upsr upscale")
    parser.add_argument("--device", default="auto", help="cpu or cuda")
    parser.add_argument("--tiles", nargs="*", type=int, default=[64], metavar="N", help="about the side of tiles (64)")
    parser.add_argument("--dtype", default="float32", help="of all rows but those of --dtypes (float32)")
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16"], help="(bfloat16)")
    parser.add_argument("--adaptive", nargs="*", type=float, default=[0.004, 0.008, 0.012, 0.016], metavar="BOUND")
    given = parser.parse_args()
    make = partial(UPSRPipeline.from_pretrained, given.weights, g=given.g, device=given.device)
    pipe = make(dtype=given.dtype)
    pairs = list(photos(given.lq or given.photos, given.count, reduced=given.lq is None))
    forms: dict[str, Form] = {}
    for tile in ("auto", *given.tiles):
        settings = pipe.settled(Settings(tile=tile))
        where = "tiles of what fits" if tile == "auto" else f"tiles of {tile}"
        all_steps = f"{given.dtype}, all steps, {where}"
        forms[all_steps] = (pipe, settings, all_steps)
        for bound in given.adaptive:
            forms[f"adaptive {bound:g}, {where}"] = (pipe, replace(settings, knobs={"adaptive": bound}), all_steps)
    first = next(iter(forms))
    forms |= {dtype: (make(dtype=dtype), forms[first][1], first) for dtype in given.dtypes}
    found = upscaled(forms, pairs)
    print(f"{machine(pipe.device)}; {given.weights}, {len(pairs)} photos\n")
    print(
        "| what | seconds | time saved | RMS (worst photo) | PSNR to it | largest difference | within a level | PSNR | SSIM |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, result in found.items():
        print(line(name, result, found[first].seconds))
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


Form = tuple[UPSRPipeline, Settings, str]
"""What upscales, how, and the form before it that its images are compared with."""


@dataclass
class Result:
    """What is known of a form after some photos.

    Attributes:
        errors: mean squares of the differences from another form, photo by photo.
        values: numbers of values, photo by photo.
        within: numbers of values that are less than 1/255 away.
        qualities: PSNR and SSIM, photo by photo, where there is a photo to compare with.
    """

    seconds: float = 0.0
    errors: list[float] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    within: list[int] = field(default_factory=list)
    largest: float = 0.0
    qualities: list[tuple[float, float]] = field(default_factory=list)

    def add(self, seconds: float, image: torch.Tensor, reference: torch.Tensor, hr: np.ndarray | None) -> None:
        """A photo's image, (C, H, W) in [0, 1], before it is rounded to bytes."""
        difference = (image - reference).abs()
        self.seconds += seconds
        self.errors.append(float(difference.square().mean()))
        self.values.append(difference.numel())
        self.within.append(int((difference < 1 / 255).sum()))
        self.largest = max(self.largest, float(difference.max()))
        if hr is not None:
            gt = torch.from_numpy(hr.copy()).permute(2, 0, 1).float() / 255
            psnr, ssim = (metric(image[None], gt[None]) for metric in (PSNR(crop_border=4), SSIM(crop_border=4)))
            self.qualities.append((psnr, ssim))


def upscaled(forms: dict[str, Form], pairs: list[Pair]) -> dict[str, Result]:
    """The photos in each form, by turns, so that what else the machine does meets all of them."""
    found = {name: Result() for name in forms}
    for pipe, settings, _ in forms.values():
        pipe(pairs[0][1][:64, :64], **given_by(settings))
    for number, (hr, lq) in enumerate(pairs, 1):
        deep, images = lq.astype(np.uint16) * 257, {}
        for name, (pipe, settings, reference) in forms.items():
            synchronise(pipe.device)
            began = time.perf_counter()
            images[name] = pipe(deep, output_type="pt", **given_by(settings)).images[0]
            found[name].add(time.perf_counter() - began, images[name], images[reference], hr)
        so_far = ", ".join(f"{name} {result.seconds:.1f} s" for name, result in found.items())
        print(f"{number} of {len(pairs)} photos: {so_far}", file=sys.stderr, flush=True)
    return found


def given_by(settings: Settings) -> dict[str, Any]:
    """Settings as arguments of a pipeline."""
    return {"tile": settings.tile, **settings.knobs}


def line(name: str, result: Result, usual: float) -> str:
    """A row of the table; ``usual`` are the seconds of the first one."""
    overall = float(np.average(result.errors, weights=result.values))
    alike = f"{-10 * math.log10(overall):.1f} dB" if overall else "-"
    error = f"{math.sqrt(overall):.4f} ({math.sqrt(max(result.errors)):.4f})"
    psnr, ssim = map(np.mean, zip(*result.qualities, strict=True)) if result.qualities else (None, None)
    return (
        f"| {name} | {result.seconds:.1f} | {1 - result.seconds / usual:.0%} | {error} | {alike} "
        f"| {result.largest:.4f} | {sum(result.within) / sum(result.values):.2%} "
        f"| {'' if psnr is None else format(psnr, '.2f')} | {'' if ssim is None else format(ssim, '.4f')} |"
    )


if __name__ == "__main__":
    sys.exit(main())
