"""Files that are in the places of results already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from upsr.errors import UpsrError, one_line
from upsr.photos.journal import Journal
from upsr.photos.sources import STREAM

if TYPE_CHECKING:
    from upsr.photos.jobs import Job


def refuse_existing(jobs: Sequence[Job], folder: Path, *, results_stay: bool = False) -> None:
    """Refuse results in the place of a file, but for those that an interrupted run into the folder wrote.

    Nothing but its journal tells a result of upsr from a file of someone else, so results of finished runs are refused too.

    Args:
        folder: of the results.
        results_stay: photos whose result is there are left alone.

    Raises:
        UpsrError: a file would be replaced.
    """
    own = Journal.written(folder)
    taken: list[tuple[Path, Job]] = []
    for job in jobs:
        if job.target == STREAM or (results_stay and job.target.is_file()):
            continue
        places = (path for path in (job.target, *job.maps.values()) if os.path.lexists(path) and not path.is_dir())
        taken += [(path, job) for path in places if os.path.relpath(path, folder) not in own]
    if not taken:
        return
    path, job = taken[0]
    more = f" (and so are the places of {len(taken) - 1} more)" if len(taken) > 1 else ""
    leave = ", --skip-existing leaves it" if path == job.target else ""
    raise UpsrError(
        f"{one_line(str(path))}: is there{more}, and the result of {one_line(str(job.source))} would take its place; "
        f"--overwrite allows it{leave}, or choose another -o or --suffix"
    )
