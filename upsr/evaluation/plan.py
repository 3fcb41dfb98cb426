"""What an evaluation is to do, and what of it could not be done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from upsr.choices import TableFormat
from upsr.config.schema import TileOptions
from upsr.errors import UpsrError
from upsr.evaluation.entries import WrongWeightsError


@dataclass(frozen=True)
class Plan:
    """An evaluation to run.

    Attributes:
        datasets, methods, protocols: names or paths of descriptions; methods see :func:`upsr.evaluation.entries.describe`.
        seeds: each method that draws noise restores every image once with each.
        folder: of the results.
        datasets_root: folder that holds the datasets.
        pairs: datasets by method, to leave the others out; ``None`` for every method on every dataset.
        metrics: names of those to measure; ``None`` for all of the protocols.
        max_images: only the first images of each set.
        tile: how large images are cut; ``None`` for what a method's options say.
        save_images: write the restored images; set metrics and the report need them.
        with_earlier: show also what earlier evaluations have left in the folder, as far as its files are as they were.
        form: of the table by image.
        metric_weights: local folder of pyiqa's weights.
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    folder: Path
    seeds: tuple[int, ...] = (0,)
    datasets_root: Path = Path("datasets")
    pairs: Mapping[str, Collection[str]] | None = None
    metrics: tuple[str, ...] | None = None
    max_images: int | None = None
    batch_size: int = 1
    num_workers: int = 0
    tile: TileOptions | None = None
    save_images: bool = True
    with_earlier: bool = True
    form: TableFormat = "csv"
    metric_weights: Path | None = None


@dataclass(frozen=True)
class Unavailable:
    """An entry without numbers, on one dataset or (``None``) on any, and the reason.

    Attributes:
        status: ``missing``: something is not here; ``wrong``: it is, but is not what its name promises.
    """

    method: str
    dataset: str | None
    status: str
    reason: str

    @classmethod
    def because(cls, method: str, dataset: str | None, error: UpsrError) -> Unavailable:
        """From an error of ``make_ready`` or of an entry's restorer."""
        return cls(method, dataset, "wrong" if isinstance(error, WrongWeightsError) else "missing", str(error))
