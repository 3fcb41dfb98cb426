"""Upscales many photos: one after the other, whatever becomes of the others."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from upsr.atomic import atomic_write
from upsr.data.photo_reader import read_photo
from upsr.errors import UpsrError
from upsr.inference.jobs import STREAM, Job
from upsr.inference.photo import Photo
from upsr.inference.photo_io import WRITABLE_SUFFIXES, suffix_for, write_photo
from upsr.inference.pipeline import MAPS, Settings, UPSRPipeline, shown_frame
from upsr.inference.stepwise import Progress
from upsr.inference.team import Team
from upsr.provenance import digest_of, file_digest

JOURNAL = ".upsr-journal"
FAILURES = (UpsrError, OSError, MemoryError)
"""What may be wrong with a photo or its place."""


@dataclass(frozen=True)
class Handling:
    """What is done with files.

    Attributes:
        quality: of JPEG, WebP and AVIF, 1 to 100.
        max_pixels: larger photos are refused.
        skip_existing: leave photos alone whose result is there.
        resume: leave photos alone that an interrupted run of the same settings has finished.
        save_uncertainty: also write psi and the weight, as grey PNGs beside the result.
    """

    quality: int = 95
    max_pixels: int = 100_000_000
    skip_existing: bool = False
    resume: bool = False
    save_uncertainty: bool = False


@dataclass
class Outcome:
    """What became of a process's photos.

    Attributes:
        done, skipped: sources by name.
        failed: one line for each that failed.
        notes: what was left out of photos or results, a phrase each, with the sources that it concerns.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0


class Journal:
    """Names the finished photos of a run that has not ended, so that another can go on.

    Args:
        folder: of the results.
        rank: each process has a file of its own.
        settings: what the results depend on; entries of other settings do not count.
    """

    def __init__(self, folder: Path, rank: int, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._path = folder / f"{JOURNAL}-{rank}.jsonl"
        self._settings = digest_of(settings)

    def finished(self) -> dict[str, str]:
        """Digests of the finished photos by the name of the result, of all processes."""
        entries: dict[str, str] = {}
        for path in self._folder.glob(f"{JOURNAL}-*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the last line of a run that was killed
                if entry["settings"] == self._settings:
                    entries[entry["target"]] = entry["source_sha256"]
        return entries

    def add(self, job: Job, target: Path) -> None:
        """Note a finished photo."""
        entry = {"target": str(target), "source_sha256": file_digest(job.source), "settings": self._settings}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Remove this process's file: the run has come to its end."""
        self._path.unlink(missing_ok=True)


def upscale_all(
    pipe: UPSRPipeline,
    jobs: Iterable[Job],
    settings: Settings,
    handling: Handling,
    journal: Journal | None,
    *,
    team: Team | None = None,
    on_photo: Callable[[Job], Progress] | None = None,
    on_failure: Callable[[str], None] | None = None,
) -> Outcome:
    """Upscale photos; one that fails does not keep the others from it.

    Args:
        journal: where finished photos are noted, and read from with ``handling.resume``.
        team: processes that share the tiles of each photo, which all of them are given; its main process reads and writes.
        on_photo: called before each photo, gives what is told its progress.
        on_failure: is told why a photo failed, in one line.
    """
    outcome = Outcome()
    finished = journal.finished() if journal is not None and handling.resume else {}
    began = time.monotonic()
    for job in jobs:
        progress = on_photo(job) if on_photo else None
        try:
            if _is_there(job, handling, finished):
                outcome.skipped.append(str(job.source))
                continue
            large, maps = _upscale_one(pipe, job, settings, handling, progress, team)
            if team is None or team.is_main:
                target, losses = _write(job, large, maps, handling)
                for note in (*large.notes, *losses):
                    outcome.notes.setdefault(note, []).append(str(job.source))
                if journal is not None and STREAM not in (job.source, target):
                    journal.add(job, target)
            outcome.done.append(str(job.source))
        except FAILURES as error:
            line = _one_line(job, error)
            outcome.failed.append(line)
            if on_failure:
                on_failure(line)
    if journal is not None:
        journal.close()
    outcome.seconds = time.monotonic() - began
    return outcome


def _upscale_one(
    pipe: UPSRPipeline,
    job: Job,
    settings: Settings,
    handling: Handling,
    progress: Progress | None,
    team: Team | None,
) -> tuple[Photo, dict[str, Photo]]:
    photo = _read(job, handling) if team is None else _read_together(job, handling, team)
    maps: dict[str, Photo] = {}

    def keep(name: str, shown: Tensor) -> None:
        if name in MAPS:
            maps[name] = Photo((shown_frame(name, shown),), "PNG")

    large = pipe.upscale(
        photo, settings, progress=progress, observe=keep if handling.save_uncertainty else None, team=team
    )
    return large, maps


def _read(job: Job, handling: Handling) -> Photo:
    source = sys.stdin.buffer.read() if job.source == STREAM else job.source
    return read_photo(source, str(job.source), max_pixels=handling.max_pixels)


def _read_together(job: Job, handling: Handling, team: Team) -> Photo:
    """What the main process reads, or its error, on every process: none waits for one that gave up."""
    found: Photo | Exception | None = None
    if team.is_main:
        try:
            found = _read(job, handling)
        except FAILURES as error:
            found = error
    found = team.from_main(found)
    if isinstance(found, Exception):
        raise found
    return found


def _write(job: Job, large: Photo, maps: dict[str, Photo], handling: Handling) -> tuple[Path, tuple[str, ...]]:
    """Write the result and the maps; where the result went, and what it does not hold."""
    target = job.target
    if target != STREAM and target.suffix.lower() not in WRITABLE_SUFFIXES:
        target = target.with_name(target.name + suffix_for(large)) if not target.suffix else target.with_suffix(".png")
    if target == STREAM:
        return target, _write_to_stdout(large, handling.quality)
    losses = write_photo(target, large, quality=handling.quality)
    for name, picture in maps.items():
        write_photo(target.with_name(f"{target.stem}_{name}.png"), picture)
    return target, losses


def _write_to_stdout(photo: Photo, quality: int) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"photo{suffix_for(photo)}"
        losses = write_photo(path, photo, quality=quality)
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.buffer.flush()
    return losses


def _is_there(job: Job, handling: Handling, finished: dict[str, str]) -> bool:
    """Whether the result need not be made again."""
    targets = [target for target in _possible(job.target) if target.is_file()] if job.target != STREAM else []
    if handling.skip_existing and targets:
        return True
    return any(finished.get(str(target)) == file_digest(job.source) for target in targets)


def _possible(target: Path) -> Iterator[Path]:
    """Where a result may have gone: a suffix that cannot be written becomes another."""
    yield target
    if target.suffix.lower() not in WRITABLE_SUFFIXES:
        yield target.with_suffix(".png")
        yield from (target.with_name(target.name + suffix) for suffix in WRITABLE_SUFFIXES)


def _one_line(job: Job, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{job.source}: not enough memory; give a smaller --tile, or upscale a smaller photo"
    if isinstance(error, OSError):
        return f"{job.source}: cannot be read ({error.strerror or error})"
    return " ".join(str(error).split())


def write_record(path: Path, outcome: Outcome, facts: dict[str, Any]) -> None:
    """Write what was done, and all that the results depend on, as JSON."""
    content = {**facts, **asdict(outcome)}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
