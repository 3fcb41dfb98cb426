"""Files in the folder of results, while a run goes on, that name what it has written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upsr.provenance import digest_of, file_digest

if TYPE_CHECKING:
    from upsr.photos.jobs import Job

JOURNAL = ".upsr-journal"


class Journal:
    """Names the finished photos of a run that has not ended, so that another run can continue it.

    Args:
        folder: of the results.
        rank: each process has a file of its own.
        settings: everything that the results depend on; entries of other settings are ignored.
    """

    def __init__(self, folder: Path, rank: int, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._path = folder / f"{JOURNAL}-{rank}.jsonl"
        self._settings = digest_of(settings)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """True if a run into this folder has begun and not ended."""
        return next(folder.glob(f"{JOURNAL}-*.jsonl"), None) is not None

    def begin(self) -> None:
        """Make the file, so that a run that is interrupted before its first photo is recognised."""
        self._path.touch()

    def finished(self) -> dict[str, str]:
        """Digests of the finished photos by the name of the result, of all processes."""
        entries: dict[str, str] = {}
        for path in self._folder.glob(f"{JOURNAL}-*.jsonl"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    if entry["settings"] == self._settings:
                        entries[entry["target"]] = entry["source_sha256"]
                except (ValueError, TypeError, KeyError):
                    continue  # the last line of a run that was killed
        return entries

    @staticmethod
    def written(folder: Path) -> set[str]:
        """Files that a run that has not ended wrote, or was about to write, as in :meth:`name`."""
        names: set[str] = set()
        for path in folder.glob(f"{JOURNAL}-*.jsonl"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    names.update(entry["writes"] if "writes" in entry else [entry["target"]])
        return names

    def name(self, target: Path) -> str:
        """The name of a result in the journal: its path relative to the folder."""
        return os.path.relpath(target, self._folder)

    def announce(self, job: Job, maps: Iterable[str]) -> None:
        """Note the files that are about to be written: after a kill another run knows that they are no one else's.

        Args:
            maps: names of the maps among them.
        """
        self._append({"writes": [self.name(path) for path in (job.target, *(job.maps[name] for name in maps))]})

    def add(self, job: Job) -> None:
        """Note a finished photo."""
        entry = {
            "target": self.name(job.target),
            "source_sha256": photo_digest(job),
            "settings": self._settings,
        }
        self._append(entry)

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def clear(self) -> None:
        """Remove the files of all processes, those of an earlier run with more of them too, once all have ended."""
        for path in self._folder.glob(f"{JOURNAL}-*.jsonl"):
            path.unlink(missing_ok=True)


def photo_digest(job: Job) -> str:
    """sha256 of a photo's file, and of its mask's."""
    own = file_digest(job.source)
    return own if job.mask is None else digest_of([own, file_digest(job.mask)])
