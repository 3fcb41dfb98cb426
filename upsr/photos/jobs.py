"""Plans `upsr upscale`: the files to read and the places of their results, decided before the first photo is read."""

from __future__ import annotations

import itertools
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from upsr.errors import UpsrError, one_line
from upsr.images.kinds import HEAD, PHOTO_SUFFIXES, kind_of
from upsr.images.writing import WRITABLE_SUFFIXES
from upsr.photos.existing import refuse_existing
from upsr.photos.masks import mask_for, without_masks
from upsr.photos.sources import STREAM, OnRemark, Remark, Source, find_sources, irregular

MAPS = ("uncertainty", "weight")
"""Maps over a photo that can be written beside its result."""
_SEPARATORS = tuple(mark for mark in (os.sep, os.altsep) if mark)


@dataclass(frozen=True)
class Job:
    """A photo to upscale.

    Attributes:
        source: the file; :data:`STREAM` is standard input.
        target: where the result goes; :data:`STREAM` is standard output.
        maps: where each of :data:`MAPS` goes.
        mask: file of the mask, if there are masks.
    """

    source: Path
    target: Path
    maps: dict[str, Path] = field(default_factory=dict)
    mask: Path | None = None


@dataclass(frozen=True)
class _Naming:
    """Arguments of :func:`plan_jobs` that decide the names of results."""

    out: str
    suffix: str
    form: str | None
    maps: bool


def plan_jobs(
    inputs: Sequence[str],
    out: str,
    suffix: str,
    form: str | None,
    *,
    maps: bool = False,
    masks: Path | None = None,
    results_stay: bool = False,
    overwrite: bool = False,
    on_remark: OnRemark = lambda _: None,
) -> list[Job]:
    """A job for each photo that the inputs name: files, folders with all below them, patterns, or ``-``.

    No two results have one name, nor names that differ only in case or in the encoding of accents, which some file systems
    treat as equal. Where the names of photos collide, as a.png and a.tga do, all but one result get another: a_tga.png.

    Args:
        out: a folder; or, for one photo, the file to write (a name with an image suffix), or ``-``.
        suffix: appended to names.
        form: suffix of the format of all results, ``None`` to keep each photo's.
        maps: write the maps too.
        masks: the mask of the one photo, or a folder with the masks, see :mod:`upsr.photos.masks`.
        results_stay: existing results are kept, so they may lie among the photos.
        overwrite: results may take the place of files that are there, but never of photos that are upscaled.
        on_remark: receives the files that are passed over, and the results that have other names than their photos.

    Raises:
        UpsrError: an input is not there, nothing is found, a name cannot be a result's, or a result would take the place of a
            photo, of the result of a photo of the same name, or of a file that is there.
    """
    _check_names(inputs, out, suffix)
    passed: dict[tuple[str, str], str] = {}

    def once(remark: Remark) -> None:
        """Passes a remark on, once for each file: two inputs may hold the same one."""
        place = os.path.realpath(remark.path.parent), remark.path.name
        if place not in passed:
            passed[place] = remark.text
            on_remark(remark)

    found = find_sources(inputs, Path(out), once)
    if masks is not None:
        found = without_masks(found, masks, once)
    if not found:
        reasons = ", ".join(f"{number} x {text}" for text, number in sorted(Counter(passed.values()).items()))
        raise UpsrError(f"{' '.join(map(one_line, inputs))}: no photos found" + (f" ({reasons})" if reasons else ""))
    naming = _Naming(out, suffix, form, maps)
    if (target := _single_target(naming, found)) is not None:
        jobs = [_job_of_one(found[0], target, naming)]
    else:
        jobs = _jobs_in_folder(found, naming, on_remark, results_stay=results_stay, overwrite=overwrite)
    if masks is not None:
        by_path = {source.path: source for source in found}
        jobs = [replace(job, mask=mask_for(by_path[job.source], masks)) for job in jobs]
    _check_places(jobs)
    if not overwrite:
        refuse_existing(jobs, folder_of(out, jobs), results_stay=results_stay)
    return jobs


def folder_of(out: str, jobs: Sequence[Job]) -> Path:
    """The folder of the results, which ``out`` names or is in."""
    return Path(out).parent if jobs[0].target == Path(out) else Path(out)


def _check_names(inputs: Sequence[str], out: str, suffix: str) -> None:
    if "" in (*inputs, out):
        raise UpsrError("INPUT and -o: one is empty, as a variable that is not set is; name a file or folder")
    if inputs.count("-") > 1:
        raise UpsrError("-: standard input is one photo; name it once")
    if any(mark in suffix for mark in (*_SEPARATORS, "\0")):
        raise UpsrError(f"--suffix: '{one_line(suffix)}' cannot be part of a file's name; -o names the folder")


def _single_target(naming: _Naming, found: Sequence[Source]) -> Path | None:
    """The file that ``out`` names, or standard output; ``None`` if it is a folder.

    Raises:
        UpsrError: it names a file that cannot be written, or there are several photos for it.
    """
    if naming.out == "-":
        if len(found) > 1:
            raise UpsrError("-o -: standard output takes one photo; name a folder for more")
        return STREAM
    path = Path(naming.out)
    ending = path.suffix.lower()
    if not ending or os.path.isdir(path) or naming.out.endswith(_SEPARATORS):
        return None
    folder = f"for a folder of that name give {one_line(naming.out)}{os.sep}"
    if ending in WRITABLE_SUFFIXES:
        if len(found) > 1:
            raise UpsrError(f"{one_line(naming.out)}: one file, but there are {len(found)} photos; {folder}")
        return path
    if ending in PHOTO_SUFFIXES or not any(source.in_folder for source in found):
        writable = ", ".join(suffix.lstrip(".") for suffix in WRITABLE_SUFFIXES)
        raise UpsrError(
            f"{one_line(naming.out)}: '{one_line(ending)}' is no format that can be written ({writable}); {folder}"
        )
    return None


def _job_of_one(source: Source, target: Path, naming: _Naming) -> Job:
    if naming.suffix:
        raise UpsrError("--suffix: not beside an -o that is the whole name; put it there, or give a folder")
    if target == STREAM:
        if naming.maps:
            raise UpsrError("--save-uncertainty: standard output takes the photo alone; give a file or a folder")
        return Job(source.path, target)
    if naming.form is not None:
        raise UpsrError("--format: not beside an -o that is the whole name, whose suffix tells the format")
    places = _Places()
    places.take([(target,)], source)
    return Job(source.path, target, _maps_of(source, target, places) if naming.maps else {})


def _jobs_in_folder(
    found: Sequence[Source], naming: _Naming, on_remark: OnRemark, *, results_stay: bool, overwrite: bool
) -> list[Job]:
    """A job for each photo, except results of other photos that an earlier run left in the same folder.

    Args:
        results_stay: such results are kept.
        overwrite: they may be replaced, but for files that were named themselves.

    Raises:
        UpsrError: one of these would be overwritten, and it may be no result.
    """
    results: dict[Source, Source] = {}
    jobs = _named_jobs(found, naming)
    while earlier := _results_among(jobs, naming, places := _Places()):
        results |= earlier
        jobs = _named_jobs([source for source in jobs if source not in results], naming)
    written = {places.key(path) for job in jobs.values() for path in _written(job, naming)}
    for result, photo in results.items():
        stays = results_stay or (overwrite and result.in_folder)
        if not stays and places.key(result.path) in written:
            raise UpsrError(
                f"{_shown(result)}: lies among the photos, and the result of {_shown(photo)} would take its place; "
                "--skip-existing leaves both alone, --overwrite makes those in folders again, or choose another -o or --suffix"
            )
        on_remark(Remark(result.path, "a result of an earlier run", "skipped"))
    for source, job in jobs.items():
        usual = _natural(source, naming)
        if job.target.name != f"{usual.stem}{usual.ending}":
            on_remark(
                Remark(source.path, f"its result is {one_line(str(job.target))}: the usual name is taken", "note")
            )
    return [job if naming.maps else Job(job.source, job.target) for job in jobs.values()]


def _results_among(jobs: dict[Source, Job], naming: _Naming, places: _Places) -> dict[Source, Source]:
    """Sources that are results, with the sources that they are results of. With a suffix, formats are ignored."""
    made: dict[str, Source] = {}
    for source, job in jobs.items():
        for path in (job.target, *job.maps.values()) if naming.suffix else _written(job, naming):
            made.setdefault(places.key(path.with_suffix("") if naming.suffix else path), source)
    found: dict[Source, Source] = {}
    for source in jobs:
        if source.path == STREAM:
            continue
        photo = made.get(places.key(source.path.with_suffix("") if naming.suffix else source.path))
        if photo is not None and photo is not source:
            found[source] = photo
    return found


def _written(job: Job, naming: _Naming) -> Iterable[Path]:
    return (job.target, *(job.maps.values() if naming.maps else ()))


def _named_jobs(found: Sequence[Source], naming: _Naming) -> dict[Source, Job]:
    """A job for each photo, with maps; no two of them write to one place."""
    by_name: dict[Path, Source] = {}
    for source in found:
        if (other := by_name.setdefault(source.inside, source)) is not source:
            raise UpsrError(
                f"{_shown(source)}, {_shown(other)}: both would become {one_line(str(source.inside))} in "
                f"{one_line(naming.out)}; upscale them into different folders"
            )
    places = _Places()
    names = {source: _natural(source, naming) for source in found}
    # Photos that keep their format choose first and keep their names. Maps follow, as a photo may have the name of a map.
    first_kept = sorted(found, key=lambda source: names[source].ending.lower() != source.path.suffix.lower())
    targets = {source: places.take(names[source].variants(source), source)[0] for source in first_kept}
    return {source: Job(source.path, targets[source], _maps_of(source, targets[source], places)) for source in found}


@dataclass(frozen=True)
class _Name:
    folder: Path
    stem: str
    ending: str

    def variants(self, source: Source) -> Iterator[tuple[Path, ...]]:
        """The name, then alternatives to it."""
        return ((self.folder / f"{stem}{self.ending}",) for stem in _stems(self.stem, source))


def _natural(source: Source, naming: _Naming) -> _Name:
    """The usual name of the result, before collisions are resolved."""
    name, own = source.inside.name, source.inside.suffix
    known = own.lower() in PHOTO_SUFFIXES or own.lower() in WRITABLE_SUFFIXES
    stem = name.removesuffix(own) if known else name
    ending = naming.form or (own if own.lower() in WRITABLE_SUFFIXES else ending_by_content(source.path))
    return _Name(Path(naming.out) / source.inside.parent, f"{stem}{naming.suffix}", ending)


def ending_by_content(path: Path) -> str:
    """The suffix of a file's format, by its content; ".png" for formats that are only read."""
    kind = kind_of(_head(path))
    return next((suffix for suffix, written in WRITABLE_SUFFIXES.items() if written == kind), ".png")


def _head(path: Path) -> bytes:
    if path == STREAM:
        return sys.stdin.buffer.peek(HEAD)[:HEAD]  # type: ignore[union-attr]
    if irregular(path):
        return b""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:  # reported when the photo is read
        return b""


def _maps_of(source: Source, target: Path, places: _Places) -> dict[str, Path]:
    variants = (tuple(target.parent / f"{stem}_{name}.png" for name in MAPS) for stem in _stems(target.stem, source))
    return dict(zip(MAPS, places.take(variants, source), strict=True))


def _stems(stem: str, source: Source) -> Iterator[str]:
    yield stem
    if mark := source.path.suffix.lstrip("."):
        yield f"{stem}_{mark}"
    yield from (f"{stem}_{number}" for number in itertools.count(2))


class _Places:
    """Places of results, compared as the file system that distinguishes the least does."""

    def __init__(self) -> None:
        self._taken: dict[str, Source] = {}
        self._folders: dict[Path, str] = {}

    def key(self, path: Path) -> str:
        """A key that is equal for paths that some file system treats as one."""
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return folded(os.path.join(self._folders[folder], path.name))

    def take(self, variants: Iterable[tuple[Path, ...]], source: Source) -> tuple[Path, ...]:
        """The first of ``variants`` of which no path is taken."""
        for paths in variants:
            keys = [self.key(path) for path in paths]
            if not any(key in self._taken for key in keys):
                self._taken |= dict.fromkeys(keys, source)
                return paths
        raise AssertionError("variants are without end")


def folded(path: str) -> str:
    """A path in lower case with accents in one encoding, which some file systems do not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).lower())


def _check_places(jobs: Sequence[Job]) -> None:
    """Refuses results in the place of a photo, a mask, or a link to one."""
    places = _Places()
    photos: dict[str, Path] = {}
    for job in jobs:
        for path in (job.source, job.mask):
            if path not in (STREAM, None):
                photos |= dict.fromkeys((places.key(path), folded(os.path.realpath(path))), path)
    for job in jobs:
        for path in (job.target, *job.maps.values()) if job.target != STREAM else ():
            if (photo := photos.get(places.key(path))) is None:
                continue
            if photo == job.source and path == job.target:
                raise UpsrError(
                    f"{one_line(str(photo))}: its result would take its place; choose another -o, or give --suffix _x4"
                )
            raise UpsrError(
                f"{one_line(str(photo))}: {one_line(path.name)} of {one_line(str(job.source))} would take its place; "
                "choose another -o"
            )


def _shown(source: Source) -> str:
    return one_line(str(source.path))
