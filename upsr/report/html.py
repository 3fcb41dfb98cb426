"""A folder of HTML to look at an evaluation: tables, photos under a slider, crops where the methods differ most."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from upsr.atomic import writable_folder
from upsr.data.image_io import decode_image
from upsr.evaluation.results import Row, read_rows, read_summary
from upsr.evaluation.work import maps_of
from upsr.heat import heat
from upsr.report.numbers import by_reason, digits_of, head, tables_of_means
from upsr.report.pages import write_page
from upsr.report.photos import Originals, Pixels, differing_places, first_rows, picture_of, read_picture

_CROP = 96
_CROPS = 3
_QUALITY = 92


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
    firsts = first_rows(rows)
    for row in sorted(rows, key=lambda row: row.seed):
        by_image = values.setdefault(row.dataset, {}).setdefault(row.image, {})
        by_image.setdefault(row.method, {}).setdefault(f"{row.protocol}/{row.metric}", row.value)
    datasets = []
    for number, (name, images) in enumerate(values.items()):
        source = Originals(name, Path(summary["datasets_root"]))
        shown = []
        for i, key in enumerate(tqdm(sorted(images), desc=f"report, {name}", unit="image", disable=None, leave=False)):
            entry: dict[str, Any] = {"key": key, "values": images[key]}
            if i < pictures:
                entry |= _Pictures(folder, report, f"pictures/{number}/{i}").write(summary, source, firsts[name][key])
            shown.append(entry)
        datasets.append({"name": name, "images": shown, "best": best_methods(summary, name)})
    return write_page(
        report / "index.html",
        "page",
        {"datasets": datasets, "measures": _measures(summary)},
        summary=summary,
        warnings=warnings,
        tables=list(tables_of_means(summary)),
        missing=by_reason(summary["missing_measures"]),
        origin=json.dumps(
            {key: summary[key] for key in ("command", "versions", "machine", "measures", "methods", "datasets")},
            indent=2,
        ),
    )


class _Pictures:
    """The pictures of one photo, in a folder of the report."""

    def __init__(self, folder: Path, report: Path, place: str) -> None:
        self.folder, self.report, self.place = folder, report, place
        (report / place).mkdir(parents=True, exist_ok=True)

    def write(self, summary: Mapping[str, Any], source: Originals, rows: Mapping[str, Row]) -> dict[str, Any]:
        """Write them; returns their files: ``pictures`` by title and ``crops`` by place and title.

        Args:
            rows: one of the photo by each method that was measured on it.
        """
        restored: dict[str, Pixels] = {}
        maps: dict[str, Pixels] = {}
        for method in (name for name in summary["methods"] if name in rows):
            if (file := picture_of(self.folder, rows[method])).is_file():
                restored[method] = read_picture(file)
            for name, file in maps_of(self.folder, method, rows[method].dataset, rows[method].image).items():
                maps[f"{name} of {method}"] = heat(decode_image(file.read_bytes(), 1, str(file))[..., 0])
        if not restored:
            return {}
        height, width = next(iter(restored.values())).shape[:2]
        lr, gt = source.read(next(iter(rows.values())), (height, width))
        candidates = {"LR": lr, **restored, "ground truth": gt}
        everything = {title: image for title, image in candidates.items() if image is not None}
        whole = {**everything, **maps}
        return {
            "size": [width, height],
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


def _measures(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        measure: {
            "title": head(measure, record),
            "digits": digits_of(measure.rpartition("/")[2]),
        }
        for measure, record in summary["measures"].items()
    }
