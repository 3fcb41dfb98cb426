"""Places of the files and folders of published weights below a folder, or in the hub's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from upsr.errors import UpsrError
from upsr.weights.catalogue import Entry, File, fetch_hint
from upsr.weights.fetch import repository_files
from upsr.weights.hub import folder_of


def file_places(entry: Entry, folder: Path) -> Iterator[tuple[str, File, Path | None]]:
    """Names in the lock file, facts and places of an entry's files; ``None`` for a repository that is not here."""
    if entry.repository is None:
        yield from ((file, facts, folder / file) for file, facts in entry.files.items())
        return
    found = repository_folder(entry, folder)
    files = repository_files(entry, found) if found is not None else {}
    if not files:
        yield entry.repository, File(), None
    yield from ((f"{entry.repository}/{file}", entry.files.get(file, File()), place) for file, place in files.items())


def repository_folder(entry: Entry, folder: Path) -> Path | None:
    """The folder of an entry that is a repository; ``None`` where it is not here."""
    assert entry.repository is not None
    try:
        if entry.folder:
            return folder_of(str(folder / entry.folder))
        return folder_of(entry.repository, local_files_only=True)
    except UpsrError:
        return None


def made_files(entry: Entry, folder: Path) -> list[tuple[str, Path]]:
    """Names in the lock file and places of the weights that ``then`` of an entry has made; none before it did."""
    if entry.made is None:
        return []
    return [
        (path.relative_to(folder).as_posix(), path) for path in sorted((folder / entry.made).rglob("*.safetensors"))
    ]


def model_place(entry: Entry, folder: Path) -> Path:
    """The file or folder of an entry that its method knows.

    Raises:
        UpsrError: it is not here.
    """
    if entry.repository is not None:
        found = repository_folder(entry, folder)
        if found is None:
            raise UpsrError(f"{entry.repository}: not here{fetch_hint([entry.repository])}")
        return found
    return folder / (entry.made or next(iter(entry.files)))
