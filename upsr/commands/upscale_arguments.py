"""Arguments of ``upsr upscale``."""

from __future__ import annotations

import argparse

from upsr.arguments import add_model, path
from upsr.choices import COLOUR_FIXES, COMPILERS, DTYPES, MAX_MEGAPIXELS, NOISE, NOISE_SOURCES, QUALITY, SHARED

EXAMPLES = """examples:
  upsr upscale photo.jpg -o large/                        large/photo.jpg, four times as wide and high
  upsr upscale holiday/ -o large/ --skip-existing         all photos of a folder and those below it
  upsr upscale 'scans/*.tif' -o large/ --outscale 2       twice as large, 16 bit stays 16 bit
  upsr upscale photo.jpg -o large.png --width 3840        so wide; the height follows
  upsr upscale a.png -o out/ --fidelity 0.8               smoother and closer to the photo; 0 for more detail and grain
  upsr upscale a.png -o out/ --save-uncertainty           also where the model was unsure, and how much noise that meant
  upsr upscale a.png -o out/ --mask here.png              invents details only where here.png is white
  upsr upscale a.png -o out/ --consistent                 out/a.png reduced to the size of a.png is a.png
  upsr upscale b.png -o out/ --settings a.json            with the settings of an earlier run's --record a.json
  upsr upscale - -o - < small.png > large.png             in a pipe
  upsr upscale shots/ -o large/ --weights upsr.pth --part g=atd_real.pth --devices cuda:0,cuda:1
  upsr upscale a.png -o out/ --weights ldm-sr/ --method ldm --knob eta=0.5     a folder of diffusers, a knob of its method
  torchrun --nproc_per_node=4 -m upsr upscale shots/ -o large/

The noise of a photo is a function of --seed and its pixels: names, order, batches and the number of processes do not matter.
No two results have one name: of a.png and a.tga the second becomes a_tga.png. What is passed over is counted and said.
No result replaces a file that is there: --overwrite allows it, --skip-existing and --resume leave results.
Profile, EXIF, XMP, texts, dpi, alpha, 16 bit, frames and pages are kept where the format can; what is left out is said.
Photos larger than a tile are restored in tiles that are blended at every step, in memory that does not grow with the photo.

--mask takes grey pictures of the photo's proportions: white for the result, black for the method's faithful estimate (UPSR:
g's), grey for a mean of both. What a black pixel touches is, to the byte, the result with --fidelity 1. For several photos
name a folder with masks of the photos' names; a mask of a.jpg may be a.png.
--consistent changes the result until its bicubic reduction to the photo's size is within a grey level of 99.9 % of the
photo's values, and says where that is not possible. Noise and compression of the photo come back with it.

Settings that the method has not are refused by name; --knob sets those that have no option here (docs/methods/README.md).
--fidelity, of UPSR: 0.5 is the model's own setting. Towards 0 there is more noise where g is sure (b_u goes a quarter of the
way to 1).
Towards 1 the result goes evenly to g's estimate, half of the way at 0.75; at 1 it is that estimate, and no step is taken.

Exit codes: 0 all done (or skipped); 1 some photos failed, the others are done; 2 a mistake in arguments, files or devices,
nothing was done; 4 another process of the run was lost; 130 interrupted, and --resume goes on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr upscale``."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder, pattern, or - for standard input")
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="folder (one that looks like a file: out.v2/); for one photo also a file, or - for standard output",
    )
    size = parser.add_argument_group("size")
    size.add_argument(
        "--outscale", type=float, metavar="FACTOR", help="size of the result, any factor (the model's: 4)"
    )
    size.add_argument("--width", type=int, metavar="PIXELS", help="width of the result; with --height both are met")
    size.add_argument("--height", type=int, metavar="PIXELS", help="height of the result")
    look = parser.add_argument_group("restoration")
    add_model(look)
    look.add_argument("--seed", type=int, metavar="N", help="of the noise (0)")
    look.add_argument(
        "--noise",
        choices=NOISE_SOURCES,
        help=f"its generator ({NOISE}); sequential: torch's for CPUs, which is other noise",
    )
    look.add_argument(
        "--steps", type=int, metavar="N", help="network calls (the model's own number); UPSR: 0 for g alone"
    )
    look.add_argument(
        "--fidelity",
        type=float,
        metavar="0..1",
        help="UPSR: 0 more detail and grain, 0.5 the model's own, 1 g's estimate",
    )
    look.add_argument("--colour-fix", choices=COLOUR_FIXES, help="(the method's own: none, StableSR adain)")
    look.add_argument(
        "--mask",
        type=path,
        metavar="FILE",
        help="grey picture: only where it is not black may the model invent; a folder of them for several photos",
    )
    look.add_argument(
        "--consistent",
        action="store_true",
        help="the result reduced is the photo, within a grey level for 99.9 %% of values",
    )
    look.add_argument(
        "--settings",
        type=path,
        metavar="FILE",
        help="of an earlier run, from its --record; options that are given go before them",
    )
    parser.set_defaults(weights=None)  # those of --settings, or else the default
    files = parser.add_argument_group("files")
    files.add_argument("--suffix", default="", metavar="TEXT", help="appended to names: _x4")
    files.add_argument(
        "--format", metavar="FORMAT", help="png, jpg, webp, tif, avif, ...: of all results (each photo's)"
    )
    files.add_argument("--quality", type=int, metavar="N", help=f"of JPEG, WebP and AVIF ({QUALITY})")
    files.add_argument("--skip-existing", action="store_true", help="leave photos alone whose result is there")
    files.add_argument("--overwrite", action="store_true", help="replace files in the places of results (refused)")
    files.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run: photos that it finished with these settings stay",
    )
    files.add_argument(
        "--save-uncertainty",
        action="store_true",
        help="also the method's maps: UPSR's NAME_uncertainty.png and NAME_weight.png",
    )
    files.add_argument("--record", type=path, metavar="FILE", help="write what was done, and with what, as JSON")
    files.add_argument(
        "--max-megapixels",
        type=float,
        default=MAX_MEGAPIXELS,
        metavar="N",
        help=f"largest photo ({MAX_MEGAPIXELS})",
    )
    work = parser.add_argument_group("computation")
    work.add_argument(
        "--devices",
        default="auto",
        metavar="LIST",
        help="auto (an accelerator, else the CPU), cpu, cuda:0, xpu, mps, or several: cuda:0,cuda:1 share the photos",
    )
    work.add_argument(
        "--share",
        choices=SHARED,
        help="what several devices share: photos, or the tiles of each, for few large ones (photos)",
    )
    work.add_argument(
        "--dtype",
        choices=["auto", *DTYPES],
        help="of the denoiser, where the method allows; int8 and float8 of its weights alone; docs/performance.md (auto)",
    )
    work.add_argument(
        "--compile",
        choices=COMPILERS,
        help="torch.compile for the denoiser: takes up to minutes for each of the first sizes, worth it for many; or OpenVINO "
        "on CPUs with AMX: seconds for each size; docs/performance.md (none)",
    )
    work.add_argument(
        "--tile",
        metavar="PIXELS",
        help="about the side of tiles in LR pixels; auto for what fits, none for no tiles (auto)",
    )
    work.add_argument("--batch", type=int, metavar="N", help="tiles at once; a CPU takes them one by one (1)")
    work.add_argument(
        "--adaptive",
        type=float,
        metavar="BOUND",
        help="leave out steps that change a tile by less (0.004 is a grey level); see docs/performance.md (0, off)",
    )
    work.add_argument(
        "--knob",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the method that has no option here",
    )
    work.add_argument("--quiet", action="store_true", help="no progress")
