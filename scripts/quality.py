"""The project's table of quality: methods measured on Val_SR and RealSet65, paired differences, and sheets of crops.

One command restores and measures what is not finished yet, prints the tables and writes OUT/results.json and OUT/sheet.png.
With --docs it also writes DOCS/quality/results.json, the tables of DOCS/quality.md, and DOCS/quality/sheet.jpg, whose photos are
scikit-image's: those of RealSet65 may not be handed on with the project.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scripts.demo import photo
from scripts.markdown import by_seed, difference_of, mark_of, mean_of, top, with_text
from upsr.arguments import ArgumentParser, add_datasets_root, add_launcher
from upsr.atomic import atomic_write, writable_folder
from upsr.data.benchmark_degradation import degrade
from upsr.data.image_io import decode_image, to_uint8, write_png
from upsr.engine.distributed import Runtime, runtime
from upsr.errors import UpsrError, exiting
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.plan import Plan
from upsr.evaluation.results import read_rows
from upsr.evaluation.session import run_evaluation
from upsr.evaluation.statistics import compare, image_means
from upsr.report.numbers import digits_of, head
from upsr.report.photos import differing_places

EXAMPLES = """examples:
  python -m scripts.quality --metric-weights FOLDER                     bicubic, both UPSR-tiny, RealESRGAN
  python -m scripts.quality --metric-weights FOLDER --methods bicubic UPSR-tiny RealESRGAN my.yml --sheet 12
  python -m scripts.quality --metric-weights FOLDER --docs docs         docs/quality.md too
FOLDER holds SqueezeNet's weights, see docs/evaluation.md. Finished images are not restored again."""

METHODS = ("bicubic", "UPSR-tiny", "UPSR-tiny-1", "RealESRGAN")
DATASETS = ("Val_SR", "RealSet65")
PROTOCOLS = ("quality", "upsr")
MEASURES = ("quality/psnr", "quality/ssim", "quality/lpips_squeeze", "quality/niqe", "upsr/niqe")
"""``upsr/niqe`` is of the image before it is rounded to 8 bit, as the released code measures."""
MARKS = ("<!-- begin: written by scripts/quality.py -->", "<!-- end -->")
CROP = 256
FREE_PHOTOS = {
    "cat": ("chelsea.png", (40, 110)),
    "coffee": ("coffee.png", (90, 200)),
    "astronaut": ("astronaut.png", (0, 90)),
    "suit": ("astronaut.png", (256, 160)),
    "rocket": ("rocket.jpg", (150, 170)),
    "stars": ("hubble_deep_field.jpg", (300, 400)),
}
"""Name: file of scikit-image and top left corner of the crop. Their terms are in docs/licences.md."""
JPEG_QUALITY = 88

Pixels = NDArray[np.uint8]


@exiting
def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    with runtime(given.launcher, "auto") as run:
        quality(given, run)


def quality(given: argparse.Namespace, run: Runtime) -> None:
    """Evaluate, and write what the command line asks for."""
    if given.docs is not None:
        with_text(given.docs / "quality.md", MARKS, "")  # refused before hours of work
    folder = writable_folder(given.out) / "evaluation"
    plan = Plan(
        datasets=tuple(given.datasets),
        methods=tuple(given.methods),
        protocols=PROTOCOLS,
        folder=folder,
        datasets_root=given.datasets_root,
        metrics=tuple(dict.fromkeys(measure.split("/")[1] for measure in MEASURES)),
        max_images=given.max_images,
        metric_weights=given.metric_weights,
        with_earlier=False,
    )
    summary = run_evaluation(plan, run)
    free = _evaluated_free_photos(given, run) if given.docs is not None else None
    if not run.is_main:
        return
    kept = results(folder, summary)
    _write_json(given.out / "results.json", kept)
    text = "\n".join(tables(kept))
    print(text)
    if given.sheet:
        name = given.datasets[-1]
        picture = sheet(Crops(name, given.datasets_root, folder, tuple(kept["methods"])), given.sheet)
        with atomic_write(given.out / "sheet.png") as path:
            picture.save(path, "PNG")
        print(f"\n{given.sheet} photos of {name}: {given.out / 'sheet.png'}")
    if free is not None:
        _refuse_gaps(summary)
        _write_json(given.docs / "quality" / "results.json", kept)
        with atomic_write(given.docs / "quality" / "sheet.jpg") as path:
            sheet(free, len(FREE_PHOTOS)).save(path, "JPEG", quality=JPEG_QUALITY)
        page = with_text(given.docs / "quality.md", MARKS, text)
        with atomic_write(given.docs / "quality.md") as path:
            path.write_text(page, encoding="utf-8")
        print(f"written: {given.docs / 'quality.md'}, {given.docs / 'quality'}")


def results(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The values by image, and what they depend on, without paths of this machine."""
    values: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(dict))))
    for row in read_rows(folder):
        measure = f"{row.protocol}/{row.metric}"
        if measure in MEASURES:
            values[row.dataset][measure][row.method][str(row.seed)][row.image] = float(f"{row.value:.6g}")
    methods = {
        name: {
            "parameters": facts.get("parameters", 0),
            "weights": {Path(file["file"]).name: file["sha256"] for file in facts["weights"]},
        }
        for name, facts in summary["methods"].items()
    }
    return {
        "machine": summary["machine"],
        "versions": summary["versions"],
        "measures": {measure: record for measure, record in summary["measures"].items() if measure in MEASURES},
        "datasets": {
            name: {key: facts[key] for key in ("evaluated", "names_sha256", "doubts")}
            for name, facts in summary["datasets"].items()
        },
        "methods": methods,
        "unavailable": [
            f"{item['method']}{' on ' + item['dataset'] if item['dataset'] else ''}: {item['status']}: {item['reason']}"
            for item in summary["unavailable"]
        ],
        "missing_measures": summary["missing_measures"],
        "values": values,
    }


def tables(kept: Mapping[str, Any]) -> Iterator[str]:
    """Lines of Markdown: for each dataset the means of the methods and their paired differences."""
    for dataset, by_measure in kept["values"].items():
        measures = [measure for measure in MEASURES if measure in by_measure]
        heads = [_head(measure, kept["measures"][measure]) for measure in measures]
        methods = [name for name in kept["methods"] if any(name in by_measure[measure] for measure in measures)]
        images = kept["datasets"][dataset]["evaluated"]
        yield from top(f"{dataset}, {images} images", heads)
        for name in methods:
            yield f"| {name} | {' | '.join(_mean(by_measure[m].get(name), m, images) for m in measures)} |"
        pairs = list(itertools.combinations(methods, 2))
        if pairs:
            yield from ("", *top(f"{dataset}, image by image", heads))
        for first, second in pairs:
            cells = [_difference(by_measure[m], first, second, m, kept["measures"][m]) for m in measures]
            yield f"| {second} minus {first} | {' | '.join(cells)} |"
        yield ""
    for line in (*kept["unavailable"], *(f"{name}: {reason}" for name, reason in kept["missing_measures"].items())):
        yield f"- not measured: {line}"
    versions = ", ".join(f"{package} {version}" for package, version in kept["versions"].items())
    facts = kept["machine"]
    place = facts.get("gpu", f"{facts['cpu']}, {facts['threads']} thread(s)")
    yield f"Measured on {place}; {versions}."


def _head(measure: str, record: Mapping[str, Any]) -> str:
    protocol, _, metric = measure.partition("/")
    return head(metric, record) + ("" if protocol == PROTOCOLS[0] else f" ({protocol})")


def _mean(values: Mapping[str, Mapping[str, float]] | None, measure: str, images: int) -> str:
    """Mean, half the width of its interval, and of how many images it is if not of all."""
    if values is None:
        return "-"
    own = by_seed(values)
    measured = len(image_means(own))
    of = "" if measured == images else f" ({measured} of {images})"
    return mean_of(own, _digits(measure)) + of


def _difference(values: Mapping[str, Any], first: str, second: str, measure: str, record: Mapping[str, Any]) -> str:
    """Mean difference and its interval; a mark where the interval leaves out 0."""
    if first not in values or second not in values:
        return "-"
    found = compare(by_seed(values[first]), by_seed(values[second]))
    return difference_of(found, _digits(measure)) + mark_of(found, higher_is_better=record["higher_is_better"])


def _digits(measure: str) -> int:
    return digits_of(measure.split("/")[1])


@dataclass(frozen=True)
class Crops:
    """The restored images of a dataset, to cut the same places out of them.

    Attributes:
        evaluation: folder of the evaluation.
    """

    dataset: str
    datasets_root: Path
    evaluation: Path
    methods: tuple[str, ...]

    def rows(self, count: int) -> Iterator[tuple[str, dict[str, Pixels]]]:
        """Name and crops of ``count`` photos, evenly spread over the dataset, where the methods differ most."""
        dataset = BENCHMARKS.read(self.dataset).open(self.datasets_root)
        name = Path(self.dataset).stem
        folders = [self.evaluation / "images" / method / "seed_0" / name for method in self.methods]
        keys = [i for i, key in enumerate(dataset.keys) if all((folder / f"{key}.png").is_file() for folder in folders)]
        for place in range(min(count, len(keys))):
            item = dataset[keys[place * len(keys) // min(count, len(keys))]]
            files = [folder / f"{item['key']}.png" for folder in folders]
            restored = [decode_image(file.read_bytes(), 3, str(file)) for file in files]
            size = restored[0].shape[:2]
            enlarged = F.interpolate(item["lq"][None], size=size, mode="nearest")[0].expand(3, -1, -1)
            images = {"LR": to_uint8(enlarged), **dict(zip(self.methods, restored, strict=True))}
            if "gt" in item:
                images["ground truth"] = to_uint8(item["gt"][:, : size[0], : size[1]].expand(3, -1, -1))
            ((top, left),) = differing_places(restored, CROP, 1)
            yield item["key"], {title: image[top : top + CROP, left : left + CROP] for title, image in images.items()}


def sheet(crops: Crops, count: int) -> Image.Image:
    """One row a photo, one column a method, at full resolution.

    Raises:
        UpsrError: no image was restored by all methods.
    """
    rows = list(crops.rows(count))
    if not rows:
        raise UpsrError(f"{crops.evaluation}: no image of {crops.dataset} was restored by all methods; no sheet")
    titles = list(rows[0][1])
    gap, line = 4, 16
    picture = Image.new("RGB", ((CROP + gap) * len(titles), (CROP + line) * len(rows) + line), "white")
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(titles):
        draw.text((column * (CROP + gap) + 2, 2), title, fill="black")
    for row, (key, images) in enumerate(rows):
        top = line + row * (CROP + line)
        draw.text((2, top + 2), key, fill="black")
        for column, title in enumerate(titles):
            picture.paste(Image.fromarray(images[title]), (column * (CROP + gap), top + line))
    return picture


def _evaluated_free_photos(given: argparse.Namespace, run: Runtime) -> Crops:
    """Photos whose terms allow a picture of them in the repository, degraded as ImageNet-Test was, and restored."""
    root = given.out / "photos"
    description = given.out / "photos.yml"
    if run.is_main:
        for name, (file, (top, left)) in FREE_PHOTOS.items():
            crop = photo(file)[top : top + CROP, left : left + CROP]
            write_png(root / "gt" / f"{name}.png", crop)
            write_png(root / "lq" / f"{name}.png", degrade(crop, 4, 0, "quality", name))
        content = {
            "about": "crops of scikit-image's photos, degraded as ImageNet-Test was",
            "get": ["scripts/quality.py makes it"],
            "licence": "see docs/licences.md",
            "files": {"type": "PairedFolderDataset", "dataroot_gt": "gt", "dataroot_lq": "lq"},
            "expected": {"images": len(FREE_PHOTOS)},
        }
        with atomic_write(description) as path:
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    run.barrier()
    plan = Plan(
        datasets=(str(description),),
        methods=tuple(given.methods),
        protocols=PROTOCOLS[:1],
        metrics=("psnr",),
        folder=given.out / "photos_evaluation",
        datasets_root=given.out,
    )
    summary = run_evaluation(plan, run)
    return Crops(str(description), given.out, plan.folder, tuple(summary["methods"]))


def _refuse_gaps(summary: Mapping[str, Any]) -> None:
    """The documentation shows all methods on all images, or stays as it is."""
    gaps = [f"{item['method']}: {item['reason']}" for item in summary["unavailable"]]
    gaps += [f"{measure}: {why}" for measure, why in summary["missing_measures"].items() if measure in MEASURES]
    gaps += [f"{name}: unreadable {', '.join(keys)}" for name, keys in summary["unreadable"].items()]
    if summary["max_images"] is not None:
        gaps.append("--max-images is set")
    if gaps:
        raise UpsrError(f"--docs: not written, for not everything was measured: {'; '.join(gaps)}")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD",
                        help=f"as for upsr evaluate ({' '.join(METHODS)})")  # fmt: skip
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), metavar="DATASET",
                        help=f"the sheet shows the last ({' '.join(DATASETS)})")  # fmt: skip
    add_datasets_root(parser)
    parser.add_argument("--metric-weights", type=Path, metavar="FOLDER", help="as for upsr evaluate")
    parser.add_argument("--out", type=Path, default=Path("results/quality"), help="folder (results/quality)")
    parser.add_argument("--docs", type=Path, help="folder with quality.md, to write it too")
    parser.add_argument("--sheet", type=int, default=12, metavar="N", help="photos on the sheet, 0 for none (12)")
    parser.add_argument("--max-images", type=int, metavar="N", help="only the first images of each set, to try it out")
    add_launcher(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
