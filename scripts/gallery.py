"""The pictures of docs/gallery.md: what the shipped models make of scikit-image's photos, degraded as ImageNet-Test was.

Every picture is made by the pipeline from a fixed seed; nothing is touched up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scripts.demo import photo
from upsr import UPSRPipeline
from upsr.arguments import ArgumentParser
from upsr.atomic import atomic_write, writable_folder
from upsr.data.benchmark_degradation import degrade
from upsr.errors import exiting

EXAMPLES = """examples:
  python -m scripts.gallery                       docs/gallery/*.jpg, a minute or two on a CPU
  python -m scripts.gallery --out my_gallery"""

PHOTOS = {
    "cat": ("chelsea.png", (8, 60)),
    "coffee": ("coffee.png", (60, 170)),
    "rocket": ("rocket.jpg", (60, 130)),
    "astronaut": ("astronaut.png", (0, 80)),
}
"""Name: file of scikit-image and top left corner of the crop. Their terms are in docs/licences.md."""
SIDE, SCALE = 288, 4
GAP, LINE = 4, 16
JPEG_QUALITY = 88

Pixels = NDArray[np.uint8]


@exiting
def main() -> None:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"), metavar="FOLDER", help="(docs/gallery)")
    out = writable_folder(parser.parse_args().out)
    five, one = (UPSRPipeline.from_pretrained(name, device="cpu", dtype="float32") for name in ("tiny", "tiny-1"))
    small = {name: degraded(name) for name in PHOTOS}
    save(out / "models.jpg", {name: beside(lq, five, one, name) for name, lq in small.items()})
    save(out / "fidelity.jpg", {"coffee": fidelities(small["coffee"], five)})
    save(out / "uncertainty.jpg", {name: maps(small[name], five) for name in ("cat", "rocket")})
    save(out / "mask.jpg", {"astronaut": masked(small["astronaut"], five)})


def truth(name: str) -> Pixels:
    """The crop of a photo, (SIDE, SIDE, 3)."""
    file, (top, left) = PHOTOS[name]
    return photo(file)[top : top + SIDE, left : left + SIDE]


def degraded(name: str) -> Pixels:
    """Its LR image, (SIDE / SCALE, SIDE / SCALE, 3)."""
    return degrade(truth(name), SCALE, 0, name)


def beside(lq: Pixels, five: UPSRPipeline, one: UPSRPipeline, name: str) -> dict[str, Pixels]:
    """The LR image, enlargements and the photo, by title."""
    return {
        "LR": enlarged(lq, Image.Resampling.NEAREST),
        "bicubic": enlarged(lq, Image.Resampling.BICUBIC),
        "UPSR-tiny, 5 steps": made(five, lq),
        "UPSR-tiny 1, 1 step": made(one, lq),
        "the photo": truth(name),
    }


def fidelities(lq: Pixels, pipeline: UPSRPipeline) -> dict[str, Pixels]:
    """The knob from most faithful to most detailed."""
    return {f"--fidelity {value:g}": made(pipeline, lq, fidelity=value) for value in (1.0, 0.75, 0.5, 0.25, 0.0)}


def maps(lq: Pixels, pipeline: UPSRPipeline) -> dict[str, Pixels]:
    """A result and where the model is unsure of it."""
    output = pipeline(lq, return_intermediates=True)
    assert output.maps is not None
    return {
        "bicubic": enlarged(lq, Image.Resampling.BICUBIC),
        "the result": np.asarray(output.images[0]),
        **{name: np.asarray(picture.convert("RGB")) for name, picture in output.maps[0].items()},
    }


def masked(lq: Pixels, pipeline: UPSRPipeline) -> dict[str, Pixels]:
    """Details in the left half alone."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 255
    return {
        "the mask": np.repeat(mask[..., None], 3, axis=2),
        "--mask": made(pipeline, lq, mask=Image.fromarray(mask)),
        "without": made(pipeline, lq),
        "--steps 0: g(y)": made(pipeline, lq, steps=0),
    }


def enlarged(lq: Pixels, how: Image.Resampling) -> Pixels:
    """Without a model."""
    return np.asarray(Image.fromarray(lq).resize((SIDE, SIDE), how))


def made(pipeline: UPSRPipeline, lq: Pixels, **settings: object) -> Pixels:
    """The pipeline's result with seed 0."""
    return np.asarray(pipeline(lq, **settings).images[0])


def save(path: Path, rows: Mapping[str, Mapping[str, Pixels]]) -> None:
    """Write rows of pictures with their titles."""
    titles = list(next(iter(rows.values())))
    picture = Image.new("RGB", ((SIDE + GAP) * len(titles) - GAP, LINE + (SIDE + GAP) * len(rows) - GAP), "white")
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(titles):
        draw.text((column * (SIDE + GAP) + 2, 2), title, fill="black")
        for row, images in enumerate(rows.values()):
            picture.paste(Image.fromarray(images[title]), (column * (SIDE + GAP), LINE + row * (SIDE + GAP)))
    with atomic_write(path) as temporary:
        picture.save(temporary, "JPEG", quality=JPEG_QUALITY)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
