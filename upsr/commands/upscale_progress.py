"""Progress and summary of `upsr upscale`, on standard error."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from upsr.errors import one_line

if TYPE_CHECKING:
    from upsr.images.photo import Photo
    from upsr.photos.jobs import Job
    from upsr.photos.upscaling import Outcome
    from upsr.tiling.tiles import Progress

_LONG = 60
"""Estimates of at least so many seconds are printed."""
_PROBE = 64
_PROBED_FROM = 64
"""Side of a part that is upscaled twice to measure the speed, and how many such parts a photo has at least."""
_MOST_LINES = 100
"""Most files that are named for one reason of skipping."""


def progress_for(pipe: Any, settings: Any, jobs: Sequence[Job], *, shown: bool) -> _Silence:
    """Progress over the photos: a bar on a terminal, a line for each photo in a log file."""
    if not shown:
        return _Silence()
    return (_Bar if sys.stderr.isatty() else _Log)(pipe, settings, jobs)


class _Silence:
    """Shows nothing."""

    def __enter__(self) -> _Silence:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def photo(self, job: Job) -> Progress:
        """A photo begins; returns the callback for its progress."""
        return lambda done, total: None

    def read(self, job: Job, photo: Photo) -> None:
        """A photo is read, and will be upscaled."""

    def failure(self, line: str) -> None:
        """A photo failed."""


class _Speaking(_Silence):
    """Counts the photos, and prints an estimate of the time before a long one."""

    def __init__(self, pipe: Any, settings: Any, jobs: Sequence[Job]) -> None:
        self._pipe, self._settings = pipe, settings
        self._numbers = {job.source: number for number, job in enumerate(jobs, 1)}
        self._count = len(jobs)
        self._pace: float | None = None
        self._pixels = 0

    def read(self, job: Job, photo: Photo) -> None:
        height, width = photo.frames[0].shape[:2]
        self._pixels = height * width * len(photo.frames)
        name = one_line(job.source.name)
        self.begin(name, width, height)
        if self._pace is None and self._can_be_probed():
            self._pace = _seconds_per_pixel(self._pipe, photo, self._settings)
        if self._pace is not None and (seconds := self._pace * self._pixels) >= _LONG:
            self.say(f"{name}: {width} x {height} will take about {_in_words(seconds)}, measured on a part of it")

    def _can_be_probed(self) -> bool:
        # On a GPU small parts are slower than their share, and compiling for their size would take minutes.
        return (
            self._pipe.device.type == "cpu" and self._pipe.compile == "none" and self._pixels > _PROBED_FROM * _PROBE**2
        )

    def begin(self, name: str, width: int, height: int) -> None:
        """Show which photo is worked on."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)


class _Bar(_Speaking):
    """A bar over all photos, with the name and the size of the one that is worked on."""

    def __init__(self, pipe: Any, settings: Any, jobs: Sequence[Job]) -> None:
        from tqdm import tqdm

        super().__init__(pipe, settings, jobs)
        self._bar = tqdm(
            total=len(jobs), file=sys.stderr, dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} photos [{elapsed}<{remaining}]",
        )  # fmt: skip
        self._begun = 0

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._bar.update(self._count - self._bar.n)
        self._bar.close()

    def photo(self, job: Job) -> Progress:
        self._begun = self._numbers[job.source]
        before = self._begun - 1

        def progress(done: int, total: int) -> None:
            self._bar.update(before + done / total - self._bar.n)

        return progress

    def begin(self, name: str, width: int, height: int) -> None:
        self._bar.set_description_str(f"{name} {width}x{height} ")

    def failure(self, line: str) -> None:
        self._bar.update(self._begun - self._bar.n)
        self.say(f"failed: {line}")

    def say(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)


class _Log(_Speaking):
    """A line for each photo that is done, which a file can hold. Failures stand at the end."""

    def photo(self, job: Job) -> Progress:
        began, number, name = time.monotonic(), self._numbers[job.source], one_line(job.source.name)

        def progress(done: int, total: int) -> None:
            if done == total:
                self.say(f"[{number}/{self._count}] {name}: {self._size}, {time.monotonic() - began:.1f} s")

        return progress

    def begin(self, name: str, width: int, height: int) -> None:
        self._size = f"{width} x {height}"


def _seconds_per_pixel(pipe: Any, photo: Photo, settings: Any) -> float:
    """Measured on a corner of a photo, in the second of two runs: the first fills caches."""
    from dataclasses import replace

    corner = replace(photo, frames=(photo.frames[0][:_PROBE, :_PROBE],), durations=())
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        pipe.upscale(corner, replace(settings, size=None, outscale=None, consistent=False))
        seconds = time.monotonic() - began
    return seconds / _PROBE**2


def _in_words(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{minutes / 60:.0f} hours"


def summarise(outcome: Outcome, how: str) -> None:
    """Print the numbers of files done, skipped and failed, with the reasons, and notes on lost contents.

    Args:
        how: what the results depend on.
    """
    lines = [
        f"{len(outcome.done)} upscaled, {len(outcome.skipped)} skipped, {len(outcome.failed)} failed in "
        f"{outcome.seconds:.1f} s ({how})"
    ]
    lines += [f"  {line}" for line in outcome.failed]
    for reason, count in sorted(Counter(outcome.skipped.values()).items()):
        names = [name for name, why in outcome.skipped.items() if why == reason]
        lines += [f"  {one_line(name)}: skipped, {reason}" for name in names[:_MOST_LINES]]
        if count > _MOST_LINES:
            lines.append(f"  and {count - _MOST_LINES} more: skipped, {reason}")
    if outcome.skipped:
        kinds = sorted(Counter(outcome.skipped.values()).items(), key=lambda kind: -kind[1])
        lines.append("  skipped: " + "; ".join(f"{count} x {reason}" for reason, count in kinds))
    for note, sources in sorted(outcome.notes.items()):
        which = sources[0] if len(sources) == 1 else f"{len(sources)} photos, such as {sources[0]}"
        lines.append(one_line(f"  note: {note} ({which})"))
    print("\n".join(lines), file=sys.stderr)
