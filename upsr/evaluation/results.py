"""Files of an evaluation: a journal while it runs, then a table by image and a summary with its origin."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from upsr.atomic import atomic_write
from upsr.choices import TableFormat
from upsr.errors import UpsrError
from upsr.evaluation.protocols import SEPARATOR
from upsr.evaluation.statistics import describe_sample

SUMMARY = "summary.json"
COLUMNS = ("dataset", "image", "method", "seed", "protocol", "metric", "value", "work", "content")


@dataclass(frozen=True)
class Row:
    """A value of one image.

    Attributes:
        work: identity of what was done: digest of method, weights, dataset, protocols and seed; :data:`SUMMARY` explains it.
        content: digest of the dataset's files of this image; empty in tables of earlier versions.
    """

    dataset: str
    image: str
    method: str
    seed: int
    protocol: str
    metric: str
    value: float
    work: str
    content: str = ""


@dataclass(frozen=True)
class Measured:
    """A finished image.

    Attributes:
        content: digest of the files that it was made of.
        picture: sha256 of the restored image's file; ``None`` if none was written.
        values: by measure; finite.
    """

    content: str
    picture: str | None
    values: dict[str, float]


class Journal:
    """Finished images, one JSON line each, in one file for each process; and in ``works/`` a description of each work.

    A line that a kill has cut off does not count.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self._path = folder / f"rank_{rank}.jsonl"
        self._file: Any = None

    def read(self) -> dict[str, dict[str, list[Measured]]]:
        """Entries by work and image, of all processes."""
        found: dict[str, dict[str, list[Measured]]] = defaultdict(lambda: defaultdict(list))
        for path in sorted(self.folder.glob("rank_*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(line)
                    entry = Measured(line["content"], line["picture"], dict(line["values"]))
                    if all(math.isfinite(value) for value in entry.values.values()):
                        found[line["work"]][line["image"]].append(entry)
                except (ValueError, KeyError, TypeError):
                    continue
        return {work: dict(images) for work, images in found.items()}

    def add(self, work: str, image: str, entry: Measured) -> None:
        """Note a finished image.

        Raises:
            UpsrError: the disk is full, or the folder is gone.
        """
        try:
            if self._file is None:
                self._file = self._path.open("a", encoding="utf-8")
                self._file.write("\n" if self._path.stat().st_size else "")  # ends a line that a kill has cut off
            line = {
                "work": work,
                "image": image,
                "content": entry.content,
                "picture": entry.picture,
                "values": entry.values,
            }
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UpsrError(
                f"{self._path}: cannot be written ({error.strerror}); what is finished so far is kept"
            ) from None

    def describe(self, work: str, record: Mapping[str, Any]) -> None:
        """Keep the description of a work for later evaluations."""
        with atomic_write(self.folder / "works" / f"{work}.json") as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def works(self) -> dict[str, dict[str, Any]]:
        """Descriptions of the works by id, the last described first."""
        found = {}
        for path in sorted((self.folder / "works").glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
            with contextlib.suppress(ValueError):  # a damaged one says nothing
                found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_rows(folder: Path, rows: Sequence[Row], form: TableFormat) -> Path:
    """``images.csv`` or ``images.parquet``."""
    path = folder / f"images.{form}"
    with atomic_write(path) as temporary:
        if form == "parquet":
            arrow, parquet = _pyarrow()
            parquet.write_table(
                arrow.table({name: [getattr(row, name) for row in rows] for name in COLUMNS}), temporary
            )
        else:
            with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    return path


def read_rows(folder: Path) -> list[Row]:
    """The table by image of an evaluation's folder.

    Raises:
        UpsrError: there is none, or it has values that are not finite.
    """
    for form in ("csv", "parquet"):
        path = folder / f"images.{form}"
        if not path.is_file():
            continue
        if form == "parquet":
            records = _pyarrow()[1].read_table(path).to_pylist()
        else:
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                records = list(csv.DictReader(file))
        try:
            rows = [
                Row(**{**record, "seed": int(record["seed"]), "value": float(record["value"])}) for record in records
            ]
        except (KeyError, TypeError, ValueError):
            raise UpsrError(f"{path}: not a table that `upsr evaluate` writes") from None
        for row in rows:
            if not math.isfinite(row.value):
                raise UpsrError(
                    f"{path}: {row.metric} of '{row.image}' by {row.method} is {row.value}; run `upsr evaluate` again"
                )
        return rows
    raise UpsrError(f"{folder}: no images.csv or images.parquet; is this the folder of an evaluation?")


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of an evaluation's folder.

    Raises:
        UpsrError: there is none.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UpsrError(
            f"{folder / SUMMARY}: no summary of an evaluation ({reason}); is this the folder of one (upsr evaluate)?"
        ) from None
    if not isinstance(summary, dict) or "results" not in summary:
        raise UpsrError(f"{folder / SUMMARY}: not a summary that `upsr evaluate` writes")
    return summary


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """``summary.json``."""
    with atomic_write(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def rows_of(
    work: str,
    dataset: str,
    method: str,
    seed: int,
    images: Mapping[str, Mapping[str, float]],
    contents: Mapping[str, str] | None = None,
) -> Iterable[Row]:
    """Rows of the values by image and ``protocol/metric``."""
    for image in sorted(images):
        for measure, value in images[image].items():
            protocol, _, metric = measure.partition(SEPARATOR)
            yield Row(dataset, image, method, seed, protocol, metric, value, work, (contents or {}).get(image, ""))


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each dataset, method, protocol and metric: mean over images and seeds, with its interval."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.dataset, row.method, row.protocol, row.metric].append(row)
    return [
        {
            "dataset": dataset,
            "method": method,
            "protocol": protocol,
            "metric": metric,
            **asdict(describe_sample(by_seed(group))),
        }
        for (dataset, method, protocol, metric), group in groups.items()
    ]


def by_seed(rows: Iterable[Row]) -> dict[int, dict[str, float]]:
    """Values by seed and image."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for row in rows:
        found[row.seed][row.image] = row.value
    return dict(found)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UpsrError("parquet needs pyarrow: pip install pyarrow, or use --format csv") from None
    return pyarrow, pyarrow.parquet
