"""Which files `upsr upscale` reads, and where each result goes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from upsr.errors import UpsrError
from upsr.inference.photo_io import WRITABLE_SUFFIXES

STREAM = Path("-")

# Files in folders are taken by their names; what is named itself is looked into whatever its name is.
_READ_SUFFIXES = frozenset(
    {
        *WRITABLE_SUFFIXES,
        ".ppm",
        ".pgm",
        ".pnm",
        ".ico",
        ".icns",
        ".jp2",
        ".pcx",
        ".psd",
        ".qoi",
        ".sgi",
        ".tga",
        ".dds",
    }
)


@dataclass(frozen=True)
class Job:
    """A photo to upscale.

    Attributes:
        source: the file; :data:`STREAM` is standard input.
        target: where the result goes; :data:`STREAM` is standard output. A name without a suffix gets that of the photo.
    """

    source: Path
    target: Path


def plan_jobs(inputs: Sequence[str], out: str, suffix: str, form: str | None) -> list[Job]:
    """A job for each photo that the inputs name: files, folders with all below them, patterns, or ``-``.

    Args:
        out: a folder; or, for one input that is a file, the file to write (a name with an image suffix), or ``-``.
        suffix: appended to names.
        form: suffix of the format of all results, ``None`` to keep each photo's.

    Raises:
        UpsrError: an input is not there, nothing is found, or two photos would have one result.
    """
    found = list(_sources(inputs, Path(out)))
    if not found:
        raise UpsrError(
            f"{' '.join(inputs)}: no photos found; folders are searched for {', '.join(sorted(_READ_SUFFIXES))}"
        )
    jobs = [Job(source, _target(source, inside, out, suffix, form, alone=len(found) == 1)) for source, inside in found]
    _check_targets(jobs)
    return jobs


def _sources(inputs: Sequence[str], out: Path) -> Iterator[tuple[Path, Path]]:
    """Each source, and its place below the input that named it."""
    seen: set[Path] = set()
    for name in inputs:
        for source, inside in _named(name, out):
            key = Path(os.path.abspath(source))
            if source == STREAM or key not in seen:
                seen.add(key)
                yield source, inside


def _named(name: str, out: Path) -> Iterator[tuple[Path, Path]]:
    path = Path(name)
    if path == STREAM:
        yield STREAM, Path("stdin")
    elif path.is_dir():
        yield from _below(path, out)
    elif os.path.lexists(path):
        yield path, Path(path.name)
    else:
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise UpsrError(f"{name}: no such file or folder, and no pattern that anything matches")
        for match in matches:
            if Path(match).is_dir():
                continue
            yield Path(match), Path(Path(match).name)


def _below(folder: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Photos in a folder and those below it, sorted; links are followed, but no folder is entered twice."""
    entered: set[str] = set()
    results = os.path.realpath(out)
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered or (real == results and Path(root) != folder):
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for file in sorted(files):
            path = Path(root, file)
            if path.suffix.lower() in _READ_SUFFIXES and not file.startswith("."):
                yield path, path.relative_to(folder)


def _target(source: Path, inside: Path, out: str, suffix: str, form: str | None, *, alone: bool) -> Path:
    path = Path(out)
    if path == STREAM:
        if not alone:
            raise UpsrError("-o -: standard output takes one photo; name a folder for more")
        return STREAM
    if alone and path.suffix.lower() in WRITABLE_SUFFIXES and not path.is_dir():
        return path
    kept = form or inside.suffix
    return path / inside.with_name(f"{inside.name.removesuffix(inside.suffix)}{suffix}{kept}")


def _check_targets(jobs: Sequence[Job]) -> None:
    taken: dict[str, Job] = {}
    for job in jobs:
        if job.target == STREAM:
            continue
        key = os.path.realpath(job.target)
        if key == os.path.realpath(job.source):
            raise UpsrError(f"{job.source}: its result would take its place; choose another -o, or give --suffix _x4")
        if key in taken:
            raise UpsrError(
                f"{job.source}, {taken[key].source}: both would become {job.target}; upscale them into different folders"
            )
        taken[key] = job
