"""A folder of HTML to look at an evaluation: tables, photos under a slider, crops where the methods differ most."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from jinja2 import Environment, PackageLoader, select_autoescape
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter
from torch import Tensor
from tqdm import tqdm

from upsr.atomic import atomic_write, writable_folder
from upsr.data.image_io import decode_image, to_tensor, to_uint8
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.results import Row, read_rows, read_summary
from upsr.evaluation.work import content_of, maps_of, pictures_of
from upsr.heat import heat
from upsr.report.numbers import by_reason, digits_of, head, tables_of_means

_CROP = 96
_CROPS = 3
_QUALITY = 92

Pixels = NDArray[np.uint8]


def write_report(folder: Path, pictures: int = 100, warnings: Sequence[str] = ()) -> Path:
    """Write ``report/`` in the folder of an evaluation; it needs nothing outside itself, and no server.

    Args:
        pictures: photos of each dataset that are shown; the tables have all.
        warnings: what to know of the numbers.

    Returns:
        The page.

    Raises:
        UpsrError: the folder is not that of an evaluation.
    """
    summary, rows = read_summary(folder), read_rows(folder)
    report = writable_folder(folder / "report")
    shutil.rmtree(report / "pictures", ignore_errors=True)
    values: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    firsts: dict[str, dict[str, dict[str, Row]]] = {}
    for row in sorted(rows, key=lambda row: row.seed):
        by_image = values.setdefault(row.dataset, {}).setdefault(row.image, {})
        by_image.setdefault(row.method, {}).setdefault(f"{row.protocol}/{row.metric}", row.value)
        firsts.setdefault(row.dataset, {}).setdefault(row.image, {}).setdefault(row.method, row)
    datasets = []
    for number, (name, images) in enumerate(values.items()):
        source = _Source(name, Path(summary["datasets_root"]))
        shown = []
        for i, key in enumerate(tqdm(sorted(images), desc=f"report, {name}", unit="image", disable=None, leave=False)):
            entry: dict[str, Any] = {"key": key, "values": images[key]}
            if i < pictures:
                entry |= _Pictures(folder, report, f"pictures/{number}/{i}").write(summary, source, firsts[name][key])
            shown.append(entry)
        datasets.append({"name": name, "images": shown, "best": best_methods(summary, name)})
    page = _render(summary, {"datasets": datasets, "measures": _measures(summary)}, warnings)
    with atomic_write(report / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    return report / "index.html"


class _Source:
    """LR and HR images of a dataset, as far as the files have not changed since."""

    def __init__(self, name: str, datasets_root: Path) -> None:
        try:
            self._dataset = BENCHMARKS.read(name).open(datasets_root)
            self._place = {key: i for i, key in enumerate(self._dataset.keys)}
        except UpsrError:
            self._dataset, self._place = None, {}

    def read(self, row: Row) -> dict[str, Tensor]:
        """``lq``, and ``gt`` where there is one, if the row was measured on them."""
        index = self._place.get(row.image)
        if index is None or row.content not in ("", content_of(self._dataset.sides(), index)):
            return {}
        item = self._dataset[index]
        return {name: item[name] for name in ("lq", "gt") if name in item}


class _Pictures:
    """The pictures of one photo, in a folder of the report."""

    def __init__(self, folder: Path, report: Path, place: str) -> None:
        self.folder, self.report, self.place = folder, report, place
        (report / place).mkdir(parents=True, exist_ok=True)

    def write(self, summary: Mapping[str, Any], source: _Source, rows: Mapping[str, Row]) -> dict[str, Any]:
        """Write them; returns their files: ``pictures`` by title and ``crops`` by place and title.

        Args:
            rows: one of the photo by each method that was measured on it.
        """
        restored: dict[str, Pixels] = {}
        maps: dict[str, Pixels] = {}
        for method in (name for name in summary["methods"] if name in rows):
            row = rows[method]
            file = pictures_of(self.folder, method, row.seed, row.dataset) / f"{row.image}.png"
            if file.is_file():
                restored[method] = decode_image(file.read_bytes(), 3, str(file))
            for name, file in maps_of(self.folder, method, row.dataset, row.image).items():
                maps[f"{name} of {method}"] = heat(decode_image(file.read_bytes(), 1, str(file))[..., 0])
        if not restored:
            return {}
        size = next(iter(restored.values())).shape[:2]
        original = source.read(next(iter(rows.values())))
        everything = dict(restored)
        if "lq" in original:
            enlarged = F.interpolate(original["lq"][None], size=size, mode="nearest")[0]
            everything = {"LR": to_uint8(enlarged.expand(3, -1, -1)), **everything}
        if "gt" in original:
            everything["ground truth"] = to_uint8(original["gt"][:, : size[0], : size[1]].expand(3, -1, -1))
        whole = {**everything, **maps}
        return {
            "size": [size[1], size[0]],
            "pictures": {
                title: self._save(image, f"p{i}.webp", lossless=False) for i, (title, image) in enumerate(whole.items())
            },
            "crops": [
                {
                    title: self._save(image[top : top + _CROP, left : left + _CROP], f"c{n}_{i}.png", lossless=True)
                    for i, (title, image) in enumerate(everything.items())
                }
                for n, (top, left) in enumerate(differing_places(list(restored.values()), _CROP, _CROPS))
            ],
        }

    def _save(self, image: Pixels, name: str, *, lossless: bool) -> str:
        path = self.report / self.place / name
        if lossless:
            Image.fromarray(image).save(path, "PNG")
        else:
            Image.fromarray(image).save(path, "WEBP", quality=_QUALITY, method=2)
        return f"{self.place}/{name}"


def best_methods(summary: Mapping[str, Any], dataset: str) -> list[str]:
    """Methods on a dataset, those first whose means come first among all in most measures (by the mean of their places)."""
    places: dict[str, list[int]] = {}
    own = [result for result in summary["results"] if result["dataset"] == dataset]
    for protocol, metric in dict.fromkeys((result["protocol"], result["metric"]) for result in own):
        found = [result for result in own if (result["protocol"], result["metric"]) == (protocol, metric)]
        higher = summary["measures"][f"{protocol}/{metric}"]["higher_is_better"]
        for place, result in enumerate(sorted(found, key=lambda result: result["mean"], reverse=higher)):
            places.setdefault(result["method"], []).append(place)
    return sorted(places, key=lambda method: sum(places[method]) / len(places[method]))


def differing_places(images: Sequence[Pixels], side: int, count: int) -> list[tuple[int, int]]:
    """Tops and lefts of squares that do not overlap, those first in which images of one size differ most.

    One image alone differs from its blurred self.
    """
    height, width = images[0].shape[:2]
    same = [to_tensor(image).numpy().mean(axis=0) for image in images if image.shape[:2] == (height, width)]
    if len(same) == 1:
        same.append(uniform_filter(same[0], 9))
    side = min(side, height, width)
    spread = uniform_filter(np.std(same, axis=0), side, mode="constant")
    half = side // 2
    valid = np.full_like(spread, -1)
    valid[half : height - side + half + 1, half : width - side + half + 1] = spread[
        half : height - side + half + 1, half : width - side + half + 1
    ]
    places = []
    for _ in range(count):
        row, column = np.unravel_index(int(np.argmax(valid)), valid.shape)
        if valid[row, column] < 0:
            break
        places.append((int(row) - half, int(column) - half))
        valid[max(0, row - side + 1) : row + side, max(0, column - side + 1) : column + side] = -1
    return places


def _measures(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        measure: {
            "title": head(measure, record),
            "digits": digits_of(measure.rpartition("/")[2]),
        }
        for measure, record in summary["measures"].items()
    }


def _render(summary: Mapping[str, Any], data: Mapping[str, Any], warnings: Sequence[str]) -> str:
    environment = Environment(
        loader=PackageLoader("upsr.report", "page"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = Path(__file__).parent / "page"
    # "</script>" would end the script inside a string too.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return environment.get_template("page.html").render(
        summary=summary,
        warnings=warnings,
        tables=list(tables_of_means(summary)),
        missing=by_reason(summary["missing_measures"]),
        data=embedded,
        origin=json.dumps(
            {key: summary[key] for key in ("command", "versions", "machine", "measures", "methods", "datasets")},
            indent=2,
        ),
        style=(page / "page.css").read_text(encoding="utf-8"),
        script=(page / "page.js").read_text(encoding="utf-8"),
    )
