"""Upscales many photos, one after the other; one that fails does not stop the others."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upsr.atomic import atomic_write
from upsr.choices import MAX_MEGAPIXELS, QUALITY
from upsr.errors import PeerLostError, UnsoundResultError, UpsrError, one_line
from upsr.images.kinds import TooManyPixelsError
from upsr.images.photo import Photo
from upsr.images.reading import read_photo
from upsr.images.writing import changed_values, check_writable, suffix_for, write_photo
from upsr.methods.base import Seen
from upsr.photos.jobs import STREAM, Job
from upsr.photos.journal import Journal, photo_digest
from upsr.photos.masks import read_mask
from upsr.photos.sources import irregular
from upsr.pipeline.images import shown_frame
from upsr.pipeline.memory import free_memory
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.pipeline.settings import Settings
from upsr.tiling.peers import Peers
from upsr.tiling.tiles import Progress

FAILURES = (UpsrError, OSError, MemoryError)
"""Errors of a photo or of its place."""

_CPU = torch.device("cpu")
THERE, FINISHED = "its result is there", "finished before the run was interrupted"
"""Reasons for which photos are skipped."""


@dataclass(frozen=True)
class Handling:
    """Settings of reading and writing files.

    Attributes:
        quality: of JPEG, WebP and AVIF, 1 to 100.
        max_pixels: larger photos are refused.
        skip_existing: skip photos whose result exists.
        resume: skip photos that an interrupted run of the same settings has finished.
        save_uncertainty: also write psi and the weight, as grey PNGs beside the result.
        stream_suffix: names the format of standard output; ``None`` for that of the photo.
    """

    quality: int = QUALITY
    max_pixels: int = MAX_MEGAPIXELS * 10**6
    skip_existing: bool = False
    resume: bool = False
    save_uncertainty: bool = False
    stream_suffix: str | None = None


@dataclass
class Outcome:
    """Results of a process.

    Attributes:
        done: sources by name.
        skipped: reasons by source.
        failed: one line for each source that failed.
        notes: losses in reading or writing, a phrase each, with the sources that it concerns.
    """

    done: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0


def upscale_all(
    pipe: UPSRPipeline,
    jobs: Iterable[Job],
    settings: Settings,
    handling: Handling,
    journal: Journal | None,
    *,
    peers: Peers | None = None,
    on_photo: Callable[[Job], Progress] | None = None,
    on_read: Callable[[Job, Photo], None] | None = None,
    on_failure: Callable[[str], None] | None = None,
) -> Outcome:
    """Upscale photos; one that fails does not stop the others.

    Args:
        journal: records finished photos, and names those to skip with ``handling.resume``.
        peers: processes that share the tiles of each photo; all get the same jobs, the main process reads and writes.
        on_photo: called before each photo; returns the receiver of its progress.
        on_read: called with each photo before it is upscaled.
        on_failure: receives the reason of a failure, in one line.
    """
    outcome = Outcome()
    finished: dict[str, str] = {}
    if journal is not None:
        finished = journal.finished() if handling.resume else {}
        journal.begin()
    # Any error of one photo is caught, so that the others are done. Among peers, the others would wait for the one that failed.
    failures: Any = Exception if peers is None else FAILURES
    began = time.monotonic()
    for job in jobs:
        progress = on_photo(job) if on_photo else None
        try:
            if reason := _left_alone(job, handling, journal, finished):
                outcome.skipped[str(job.source)] = reason
                continue
            photo, mask = _read_by(peers, lambda job=job: _read(pipe, job, settings, handling))  # type: ignore[misc]
            if on_read is not None:
                on_read(job, photo)
            large, maps = _upscale_one(pipe, job, photo, mask, settings, handling, progress, peers)
            noted = journal if STREAM not in (job.source, job.target) else None
            if peers is None or peers.is_main:
                if noted is not None:
                    noted.announce(job, maps)
                for note in _write(job, large, maps, handling, consistent=settings.consistent):
                    outcome.notes.setdefault(note, []).append(str(job.source))
                if noted is not None:
                    noted.add(job)
            outcome.done.append(str(job.source))
        except PeerLostError:
            raise
        except failures as error:
            line = _one_line(job, error)
            outcome.failed.append(line)
            if on_failure:
                on_failure(line)
    outcome.seconds = time.monotonic() - began
    return outcome


def check_name(job: Job, handling: Handling) -> None:
    """Check the name of a result.

    Raises:
        UpsrError: the file system cannot hold it, or a folder has it.
    """
    if job.target == STREAM:
        return
    name = one_line(str(job.source))
    for path in (job.target, *(job.maps.values() if handling.save_uncertainty else ())):
        folder = next(parent for parent in path.parents if parent.is_dir())
        most, length = _longest_name(folder), len(os.fsencode(path.name))
        if length > most:
            raise UpsrError(
                f"{name}: the name of its result is too long ({length} bytes, {most} fit): {one_line(path.name)[:40]}...; "
                "give a shorter --suffix, or rename the photo"
            )
        if os.path.isdir(path):
            raise UpsrError(f"{name}: {one_line(str(path))} is a folder; move it, or choose another -o")


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return 255


def _upscale_one(
    pipe: UPSRPipeline,
    job: Job,
    photo: Photo,
    mask: Tensor | None,
    settings: Settings,
    handling: Handling,
    progress: Progress | None,
    peers: Peers | None,
) -> tuple[Photo, dict[str, Photo]]:
    maps: dict[str, Photo] = {}

    def keep(seen: Seen) -> None:
        if seen.kind == "map":
            maps[seen.name] = Photo((shown_frame(seen),), "PNG")

    try:
        watch = keep if handling.save_uncertainty else None
        large = pipe.upscale(photo, settings, mask=mask, progress=progress, watch=watch, peers=peers)
    except UnsoundResultError as error:
        raise UnsoundResultError(f"{one_line(str(job.source))}: {error}") from None
    return large, maps


def _check_room(name: str, photo: Photo, size: tuple[int, int], scale: float) -> None:
    """Refuse a result that is larger than the free memory; a system without memory ends the process without a message.

    A result of another size than the method's comes from a resizing, which holds a frame's planes twice in float32.
    """
    height, width = size
    frame = photo.frames[0]
    is_resized = size != tuple(round(side * scale) for side in frame.shape[:2])
    needed = height * width * sum(frame.shape[-1] * frame.itemsize for frame in photo.frames)
    needed += height * width * frame.shape[-1] * 2 * torch.float32.itemsize if is_resized else 0
    free = free_memory(_CPU)
    if needed > free:
        raise UpsrError(
            f"{name}: a result of {width} x {height} needs {needed / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} are free; "
            "give a smaller --outscale, --width or --height"
        )


def _read(pipe: UPSRPipeline, job: Job, settings: Settings, handling: Handling) -> tuple[Photo, Tensor | None]:
    """Read a photo whose result can be written, as far as that is known before it is made, and its mask."""
    check_name(job, handling)
    name = one_line(str(job.source))
    if kind := irregular(job.source) if job.source != STREAM else None:
        raise UpsrError(f"{name}: {kind}, which is not opened; a pipe can be standard input: upsr upscale - < {name}")
    source = sys.stdin.buffer.read() if job.source == STREAM else job.source
    with _naming_the_limit():
        photo = read_photo(source, name, max_pixels=handling.max_pixels)
    shape = (photo.frames[0].shape[0], photo.frames[0].shape[1])
    try:
        size = pipe.target_size(shape, settings)
        check_writable(job.target if job.target != STREAM else Path(_stream_name(photo, handling)), photo, size)
    except UpsrError as error:
        raise UpsrError(f"{name}: {error}") from None
    _check_room(name, photo, size, pipe.scale)
    with _naming_the_limit():
        mask = None if job.mask is None else read_mask(job.mask, name, shape, max_pixels=handling.max_pixels)
    return photo, mask


@contextlib.contextmanager
def _naming_the_limit() -> Iterator[None]:
    """Errors of files with too many pixels name the option that allows more."""
    try:
        yield
    except TooManyPixelsError as error:
        raise UpsrError(f"{error} with --max-megapixels") from None


def _read_by(peers: Peers | None, read: Callable[[], tuple[Photo, Tensor | None]]) -> tuple[Photo, Tensor | None]:
    """The photo and mask that the main process reads, or its error, on every process, so that none waits for another."""
    if peers is None:
        return read()
    found: Any = None
    if peers.is_main:
        try:
            found = read()
        except FAILURES as error:
            found = error
    found = peers.from_main(found)
    if isinstance(found, Exception):
        raise found
    return found


def _write(job: Job, large: Photo, maps: dict[str, Photo], handling: Handling, *, consistent: bool) -> list[str]:
    """Write the result and the maps; returns the losses in reading and writing."""
    written = job.target if job.target != STREAM else Path(_stream_name(large, handling))
    notes = [*large.notes, *inconsistency(written, consistent)]
    if job.target == STREAM:
        return [*notes, *_write_to_stdout(large, handling)]
    losses = write_photo(job.target, large, quality=handling.quality)
    for name, picture in maps.items():
        write_photo(job.maps[name], picture)
    return [*notes, *losses]


def inconsistency(path: Path, consistent: bool) -> tuple[str, ...]:
    """A phrase for a result that was to be consistent with its photo, and is not in the format of ``path``."""
    changed = changed_values(path) if consistent else None
    return () if changed is None else (f"not consistent: {changed}",)


def _write_to_stdout(photo: Photo, handling: Handling) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _stream_name(photo, handling)
        losses = write_photo(path, photo, quality=handling.quality)
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.buffer.flush()
    return losses


def _stream_name(photo: Photo, handling: Handling) -> str:
    return f"-{handling.stream_suffix or suffix_for(photo)}"


def _left_alone(job: Job, handling: Handling, journal: Journal | None, finished: dict[str, str]) -> str | None:
    """The reason for which the result is not made again, if there is one."""
    if job.target == STREAM or not os.path.isfile(job.target):
        return None
    if handling.skip_existing:
        return THERE
    if journal is None or job.source == STREAM or journal.name(job.target) not in finished:
        return None
    return FINISHED if finished[journal.name(job.target)] == photo_digest(job) else None


def _one_line(job: Job, error: Exception) -> str:
    name, text = one_line(str(job.source)), " ".join(str(error).split())
    if isinstance(error, UpsrError):
        return one_line(str(error))
    # torch reports a lack of memory as a RuntimeError.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in text):
        return f"{name}: not enough memory; give a smaller --tile, or upscale a smaller photo"
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return f"{name}: not done ({error.strerror or error}{one_line(place)})"
    return f"{name}: not done, by a fault of this program ({type(error).__name__}: {one_line(text)[:300]})"


def write_record(path: Path, outcome: Outcome, facts: dict[str, Any]) -> None:
    """Write the outcome, and everything that the results depend on, as JSON."""
    content = {**facts, **asdict(outcome)}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
