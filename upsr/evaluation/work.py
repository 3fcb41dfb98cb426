"""A work is one entry on one dataset with one seed, measured in one way; values are kept under it and found again.

Values are also kept under digests of the files that they come from, so that none is shown of a file that has changed since. Sizes
and times of files would be cheaper, but ``cp -p`` keeps both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upsr.config.schema import TileOptions
from upsr.data.datasets import Sides
from upsr.data.image_io import UnreadableImageError
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import ValidationSet
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS, Benchmark, Findings, check
from upsr.evaluation.results import Measured
from upsr.provenance import digest_of, file_digest

_DIGITS = 16

WHOLE_SET = "the whole set/"
"""Key of the values of a whole set, in place of an image's name; no image's name ends so."""


@dataclass(frozen=True)
class OpenSet:
    """A dataset that is evaluated on.

    Attributes:
        given: its name, or the path of its description.
        root: folder of the datasets.
        keys: of the images to evaluate.
        contents: digest of each one's files.
        channels: of its images.
    """

    given: str
    root: Path
    description: Benchmark
    data: ValidationSet
    findings: Findings
    keys: list[str]
    contents: dict[str, str]
    has_gt: bool
    channels: int

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.description.name

    def identity(self) -> dict[str, Any]:
        """The facts that results depend on beside the contents of the files."""
        return {
            "name": self.name,
            "scale": self.description.scale,
            "files": self.description.files.model_dump(mode="json"),
        }

    def facts(self) -> dict[str, Any]:
        """Facts for the summary."""
        return {
            "about": self.description.about,
            "licence": self.description.licence,
            "scale": self.description.scale,
            "has_gt": self.has_gt,
            "evaluated": len(self.keys),
            "doubts": self.findings.doubts,
            "contents_sha256": digest_of(self.contents),
            **self.findings.facts,
        }


def open_set(
    given: str, root: Path, run: Runtime, *, max_images: int | None = None, batch_size: int = 1, num_workers: int = 0
) -> OpenSet:
    """A dataset by its name or the path of its description.

    Raises:
        UpsrError: there is none, or nothing can be measured on it.
    """
    benchmark = BENCHMARKS.read(given)
    findings = check(benchmark, root, decode=False)
    if findings.problems:
        raise UpsrError("; ".join(f"{benchmark.name}: {problem}" for problem in findings.problems))
    dataset = benchmark.open(root)
    keys = list(dataset.keys)[:max_images]
    sides = dataset.sides()
    return OpenSet(
        given=given,
        root=root,
        description=benchmark,
        data=ValidationSet(benchmark.name, dataset, batch_size, num_workers, benchmark.scale),
        findings=findings,
        keys=keys,
        contents=run.from_main(contents(sides, keys) if run.is_main else None),
        has_gt="gt" in sides,
        channels=next(iter(sides.values()))[0].channels,
    )


@dataclass(frozen=True)
class Work:
    """One entry on one dataset with one seed.

    Attributes:
        method, given, tile: name of the method, what it was described by, and how it cuts large images unless it says so itself.
        dataset, described, root: name of the dataset, what it was described by, and where the datasets are.
        identity: all that a value depends on but the contents of files: the method with its weights, the dataset, the measures,
            the seed where the method draws noise.
        protocols: that the measures belong to.
    """

    method: str
    given: str
    tile: dict[str, Any] | None
    dataset: str
    described: str
    root: str
    seed: int
    identity: dict[str, Any]
    protocols: dict[str, Any]

    @classmethod
    def of(
        cls,
        *,
        method: str,
        given: str,
        tile: TileOptions | None,
        origin: Mapping[str, Any],
        data: OpenSet,
        seed: int,
        draws: bool,
        measures: Mapping[str, Any],
        protocols: Mapping[str, Any],
    ) -> Work:
        """The work of a method on a dataset."""
        return cls(
            method=method,
            given=given,
            tile=tile.model_dump(mode="json") if tile else None,
            dataset=data.name,
            described=data.given,
            root=str(data.root),
            seed=seed,
            identity=identity(origin, data, measures, seed if draws else None),
            protocols=dict(protocols),
        )

    @property
    def id(self) -> str:
        """Key of its values in the journal."""
        return digest_of(self.identity)[:_DIGITS]


def identity(origin: Mapping[str, Any], data: OpenSet, measures: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """See :class:`Work`."""
    return {"method": origin, "dataset": data.identity(), "measures": measures, "seed": seed}


def made_of(data: OpenSet, reads: Callable[[str, Sequence[str]], Mapping[str, str]]) -> dict[str, str]:
    """Digest of all files that the result of each image depends on, by key: the dataset's, and the finished image.

    Args:
        reads: see :class:`upsr.evaluation.entries.Entry`.
    """
    read = reads(data.name, data.keys)
    return {
        key: digest_of([content, read.get(key)])[:_DIGITS] if read else content
        for key, content in data.contents.items()
    }


def finished(
    entries: Mapping[str, Iterable[Measured]], made: Mapping[str, str], pictures: Path, *, with_pictures: bool
) -> dict[str, dict[str, float]]:
    """Values of the images that were measured from the files that are there now, by key.

    A picture that lies among the results and is not the one that was measured makes its image unfinished.

    Args:
        entries: of the journal, by key.
        made: see :func:`made_of`.
        pictures: folder of the restored images.
        with_pictures: images without a picture are not finished either.
    """
    found = {}
    for key, content in made.items():
        candidates = [entry for entry in entries.get(key, ()) if entry.content == content]
        if not candidates:
            continue
        picture = digest_of_file(pictures / f"{key}.png")
        if picture is None and with_pictures:
            continue
        for entry in candidates:
            if picture in (None, entry.picture):
                found[key] = entry.values
    return found


def content_of_set(data: OpenSet, made: Mapping[str, str], pictures: Path, keys: Iterable[str]) -> str:
    """Digest of all that a measure of the whole set depends on: the files of the dataset, and the pictures of its images."""
    files = {key: [made.get(key), digest_of_file(pictures / f"{key}.png")] for key in keys}
    return digest_of([data.findings.facts["names_sha256"], files])[:_DIGITS]


def map_of(folder: Path, name: str, method: str, dataset: str, key: str) -> Path:
    """File of a map, such as the uncertainty of an image, in the folder of an evaluation."""
    return folder / name / method / dataset / f"{key}.png"


def maps_of(folder: Path, method: str, dataset: str, key: str) -> dict[str, Path]:
    """The maps of an image that are there, by name."""
    places = {place.name: map_of(folder, place.name, method, dataset, key) for place in folder.iterdir()}
    return {name: path for name, path in sorted(places.items()) if path.is_file()}


def pictures_of(folder: Path, method: str, seed: int, dataset: str) -> Path:
    """Folder of restored images, in the folder of an evaluation."""
    return folder / "images" / method / f"seed_{seed}" / dataset


def contents(sides: Sides, names: Sequence[str]) -> dict[str, str]:
    """Digest of the files of a dataset's first items, by name; one with a file that cannot be read has none.

    Args:
        names: of the items, in their order.
    """
    found = {name: content_of(sides, i) for i, name in enumerate(names)}
    return {name: content for name, content in found.items() if content is not None}


def content_of(sides: Sides, index: int) -> str | None:
    """Digest of the files of one item; ``None`` where one cannot be read, which an evaluation says when it is its turn."""
    try:
        return digest_of({kind: images.digest(keys[index]) for kind, (images, keys) in sides.items()})[:_DIGITS]
    except UnreadableImageError:
        return None


def digest_of_file(path: Path) -> str | None:
    """sha256 of a file, ``None`` where there is none."""
    try:
        return file_digest(path)
    except OSError:
        return None
