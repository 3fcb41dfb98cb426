"""Benchmark datasets: descriptions, places, and checks of the files there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from upsr.compat import DATASET_REGISTRY
from upsr.config.components import component_problems
from upsr.config.load import refuse
from upsr.config.schema import Component, DatasetComponent, FolderName, Section
from upsr.data.backends import list_keys, without_suffix
from upsr.data.datasets import ImageFolder, Sides, build_dataset
from upsr.data.image_io import UnreadableImageError
from upsr.errors import UpsrError
from upsr.evaluation.catalogue import Catalogue

_SHOWN = 3


class PreparerComponent(Component):
    """A way to make the folder from a download."""

    registry = "benchmark preparer"


class LookAlike(Section):
    """Something that people mistake for the benchmark."""

    images: int | None = Field(None, description="It has so many images ...")
    lq_as_large_as_gt: bool = Field(False, description="... or its LR images have the size of the HR images.")
    is_really: str = Field(description="What it is, and what to do.")


class Expectation(Section):
    """Known facts of a benchmark's files. Absent values are not known here, and not checked."""

    images: int | None = Field(None, ge=1, description="Number of LR images, or of pairs.")
    gt_size: tuple[int, int] | None = Field(None, description="(height, width) of every HR image.")
    names_sha256: str | None = Field(None, description="Of the names, as `upsr data check` prints it.")
    pixels_sha256: str | None = Field(None, description="Of the decoded images in any order, under any name.")
    look_alikes: list[LookAlike] = Field(default_factory=list)


class Benchmark(Section):
    """A file ``datasets/NAME.yml``."""

    name: FolderName = Field(description="By default the name of the file.")
    about: str = Field(description="What it is, in a line.")
    get: list[str] = Field(min_length=1, description="Where to get it: addresses or instructions.")
    licence: str = Field(description="The terms that its publisher states.")
    scale: Literal[2, 4, 8] = 4
    folder: str | None = Field(None, description="Folder under datasets/; by default the name.")
    files: DatasetComponent = Field(
        description="Registered dataset; dataroot_* and meta_info are relative to the folder."
    )
    expected: Expectation
    prepare: PreparerComponent | None = Field(None, description="Registered preparer for `upsr data prepare`.")

    def root(self, datasets: Path) -> Path:
        """Its folder under the folder of all datasets."""
        return datasets / (self.folder or self.name)

    def open(self, datasets: Path) -> Any:
        """The dataset.

        Raises:
            UpsrError: files are missing; the message says where to get them.
        """
        root = self.root(datasets)
        if not root.is_dir():
            raise UpsrError(f"{self.name}: no folder {root}; get it from {self.get[0]} (upsr data list {self.name})")
        arguments = {
            key: str(root / value) if key.startswith("dataroot") or key == "meta_info" else value
            for key, value in self.files.arguments.items()
        }
        component = DatasetComponent(type=self.files.type, **arguments)
        refuse(f"datasets/{self.name}.yml", list(component_problems(DATASET_REGISTRY, component, "files")))
        return build_dataset(component)


BENCHMARKS = Catalogue("dataset", "datasets", Benchmark)


@dataclass
class Findings:
    """Result of :func:`check`.

    Attributes:
        problems: why nothing can be measured on it, or why the numbers would mean nothing.
        doubts: why the numbers may not be comparable with others'.
        facts: by name: number of images, sizes, fingerprints.
    """

    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def check(benchmark: Benchmark, datasets: Path, *, decode: bool) -> Findings:
    """Compare the files with what the benchmark is known to be.

    Args:
        decode: read every pixel, to find damaged files and to take the fingerprint; else only headers.

    Raises:
        UpsrError: there is no such folder, or a pair is incomplete.
    """
    findings = Findings()
    _repeated_names(benchmark, datasets, findings)
    if findings.problems:
        return findings
    dataset = benchmark.open(datasets)
    sides = dataset.sides()
    names = list(dataset.keys)
    findings.facts |= {"images": len(names), "names_sha256": fingerprint(names)}

    sizes = {kind: _sizes(kind, images, keys, findings) for kind, (images, keys) in sides.items()}
    _compare_sizes(benchmark, names, sizes, findings)
    _compare_counts(benchmark, len(names), findings)
    expected = benchmark.expected
    if expected.names_sha256 not in (None, findings.facts["names_sha256"]):
        findings.doubts.append("the file names are not those of the named source")
    if decode and not findings.problems:
        findings.facts["pixels_sha256"] = fingerprint(_pixels(sides))
        if expected.pixels_sha256 not in (None, findings.facts["pixels_sha256"]):
            findings.doubts.append("the pixels are not those of the named source")
    return findings


def fingerprint(texts: Iterable[str]) -> str:
    """sha256 of a set of texts, independent of their order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def pixel_digest(pixels: np.ndarray) -> str:
    """sha256 of a decoded image, independent of its file's name and format."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _repeated_names(benchmark: Benchmark, datasets: Path, findings: Findings) -> None:
    """Refuses two images of one name: the pair would be ambiguous, and one result would overwrite the other."""
    root = benchmark.root(datasets)
    for key, value in benchmark.files.arguments.items():
        folder = root / str(value)
        if key.startswith("dataroot") and folder.is_dir():
            times = Counter(without_suffix(key) for key in list_keys(folder))
            repeated = sorted(stem for stem, count in times.items() if count > 1)
            if repeated:
                findings.problems.append(
                    f"{folder}: {len(repeated)} name(s) stand for more than one image ({_some(repeated)}); keep one file of each"
                )


def _sizes(kind: str, images: ImageFolder, keys: Sequence[str], findings: Findings) -> list[tuple[int, int] | None]:
    """(height, width) from the headers; ``None`` and a problem for files without one."""
    sizes: list[tuple[int, int] | None] = []
    for key in keys:
        try:
            sizes.append(images.size(key))
        except UnreadableImageError as error:
            findings.problems.append(str(error))
            sizes.append(None)
    known = [size for size in sizes if size is not None]
    if known:
        findings.facts[f"{kind}_sizes"] = [list(min(known)), list(max(known))]
    return sizes


def _compare_sizes(
    benchmark: Benchmark, names: Sequence[str], sizes: dict[str, list[tuple[int, int] | None]], findings: Findings
) -> None:
    expected = benchmark.expected
    if expected.gt_size is not None:
        other = [n for n, size in zip(names, sizes.get("gt", []), strict=False) if size not in (None, expected.gt_size)]
        if other:
            height, width = expected.gt_size
            findings.problems.append(f"{len(other)} HR image(s) are not {width}x{height} ({_some(other)})")
    if len(sizes) < 2:
        return
    pairs = [(n, g, q) for n, g, q in zip(names, sizes["gt"], sizes["lq"], strict=True) if g and q]
    for look_alike in expected.look_alikes:
        if look_alike.lq_as_large_as_gt and pairs and all(g == q for _, g, q in pairs):
            findings.problems.append(f"the LR images are as large as the HR images: this is {look_alike.is_really}")
            return
    unequal = [
        f"'{name}': LR {q[1]}x{q[0]}, HR {g[1]}x{g[0]}"
        for name, g, q in pairs
        if any(not 0 <= have - benchmark.scale * low < benchmark.scale for have, low in zip(g, q, strict=True))
    ]
    if unequal:
        findings.problems.append(
            f"{len(unequal)} HR image(s) are not {benchmark.scale} times as large as their LR image ({_some(unequal)}); "
            "check that both folders are of one set and scale"
        )


def _compare_counts(benchmark: Benchmark, images: int, findings: Findings) -> None:
    expected = benchmark.expected
    for look_alike in expected.look_alikes:
        if look_alike.images is not None and look_alike.images == images:
            findings.problems.append(f"{images} images: this is {look_alike.is_really}")
            return
    if expected.images not in (None, images):
        findings.doubts.append(f"{images} images; the published set has {expected.images}")


def _pixels(sides: Sides) -> Iterator[str]:
    """A digest of each decoded image."""
    for kind, (images, keys) in sides.items():
        for key in tqdm(keys, desc=f"reading {kind}", unit="image", disable=None, leave=False):
            yield kind + pixel_digest(images.image(key))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
