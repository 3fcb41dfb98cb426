"""Published weights and backbones by name: files, digests, sources, terms."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from upsr.errors import UpsrError
from upsr.weights import shipped_names

FOLDER = Path("experiments/pretrained_models")
"""The folder that option files expect weights in."""


class _Structure(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Structure):
    """A weight file. Size in bytes, or a text where it is only about known; sha256, or its first digits."""

    size: int | str | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{8,64}$")


class Source(_Structure):
    """A place that files are fetched from: one of its keys but ``named``, which is the file's name there."""

    github: str | None = Field(None, pattern="^[^/ ]+/[^/ ]+ [^/ ]+$", description="Release: owner/repository tag.")
    hub: str | None = Field(None, description="Repository of the Hugging Face Hub.")
    drive_file: str | None = Field(None, description="Google Drive's name of a file.")
    drive_folder: str | None = Field(None, description="Google Drive's name of a folder.")
    address: str | None = Field(None, description="Address of a file.")
    named: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        if len(self.model_dump(exclude={"named"}, exclude_none=True)) != 1:
            raise ValueError("a source is one of github, hub, drive_file, drive_folder, address")
        return self

    def __str__(self) -> str:
        [(kind, place)] = self.model_dump(exclude={"named"}, exclude_none=True).items()
        return f"{kind.replace('_', ' ')} {place}"


class Entry(_Structure):
    """Weights that are fetched together.

    Args:
        repository: of the hub; all of it is fetched, to ``folder`` or, without one, to the hub's cache.
        licence: as its source states it; ``None`` where none is stated.
        needs: names of other entries without which these weights do nothing.
        used_by: names in options/methods/, or methods.
        then: command that makes this package's files from them.
        method: the one that knows the first of the files, or the folder, see ``Method.assumed``.
        parts: files of the method's other parts, by the parts' names.
        network: registered network that the first file fills, where no method reads it.
        loss: registered loss that reads a file; its argument has the file's name.
        metric: registered metric that reads files of the entry and of those that it needs; as ``loss``.
        parameters: number in each part of the method or the network, as its authors state it or as it was counted.
        restored: what :func:`upsr.pipeline.verification.restored_values` gave with weights that were compared with the authors'.
    """

    files: dict[str, File] = {}
    sources: list[Source] = []
    repository: str | None = None
    folder: str | None = None
    licence: str | None = None
    noncommercial: bool = False
    needs: list[str] = []
    used_by: list[str] = []
    then: str | None = None
    method: str | None = None
    parts: dict[str, str] = {}
    network: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    metric: dict[str, Any] | None = None
    parameters: dict[str, int] = {}
    restored: list[float] | None = None

    @property
    def made(self) -> Path | None:
        """The folder that ``then`` writes, below :data:`FOLDER`."""
        return Path(self.then.rpartition(" -o ")[2]).relative_to(FOLDER) if self.then else None

    @property
    def loadable(self) -> bool:
        """Something in this package reads the files, by themselves or converted."""
        return any(what is not None for what in (self.method, self.network, self.loss, self.metric, self.repository))


@cache
def read_catalogue() -> dict[str, Entry]:
    """The entries by name, in the order of the file."""
    text = Path(__file__).with_name("catalogue.yml").read_text(encoding="utf-8")
    return {name: Entry.model_validate(data) for name, data in yaml.safe_load(text).items()}


def entries_of(name: str) -> dict[str, Entry]:
    """The entries that a name means, those that they need first: of an entry, of a method that uses it, or of a file.

    Raises:
        UpsrError: it means none.
    """
    catalogue = read_catalogue()
    spelled = {known.lower(): known for known in catalogue}
    if name.lower() in spelled:
        meant = [spelled[name.lower()]]
    else:
        meant = [
            known
            for known, entry in catalogue.items()
            if name.lower() in {word.lower() for word in (*entry.used_by, *entry.files)}
        ]
    if not meant:
        if name.lower() in shipped_names():
            raise UpsrError(f"{name}: comes with the package, nothing to fetch; --weights {name.lower()} names it")
        words = {word for known, entry in catalogue.items() for word in (known, *entry.used_by, *entry.files)}
        lower = {word.lower(): word for word in words}
        near = difflib.get_close_matches(Path(name).name.lower(), sorted(lower), n=1, cutoff=0.5)
        hint = f"; did you mean '{lower[near[0]]}'?" if near else ""
        raise UpsrError(f"{name}: no published weights of this name{hint}; see upsr weights list")
    needed = [need for known in meant for need in catalogue[known].needs]
    return {known: catalogue[known] for known in dict.fromkeys((*needed, *meant))}


def published_name(path: str | Path) -> str | None:
    """The entry that a file or folder is of, by its name and place; ``None`` for no published weights."""
    found = _fetchable(Path(path))
    return None if found is None else found[0]


def fetch_hint(paths: Iterable[str | Path]) -> str:
    """The ending of an error about missing files: the command that fetches those that the catalogue has.

    A file of a known name in another folder than :data:`FOLDER` is fetched to that folder.
    """
    commands: dict[str, list[str]] = {}
    for path in map(Path, paths):
        if path.is_file() or (found := _fetchable(path)) is None:
            continue
        name, folder = found
        names = commands.setdefault(to_option(folder), [])
        if name not in names:
            names.append(name)
    found_commands = [f"upsr weights fetch {' '.join(names)}{to}" for to, names in commands.items()]
    return f"; fetch them: {'; '.join(found_commands)}" if found_commands else ""


def to_option(folder: Path) -> str:
    """The argument of ``upsr weights`` for a folder of weights; empty for :data:`FOLDER`."""
    return "" if folder == FOLDER else f" --to {shlex.quote(str(folder))}"


def _fetchable(path: Path) -> tuple[str, Path] | None:
    """The entry that a path is of, and the folder to fetch it to."""
    for name, entry in read_catalogue().items():
        folders = [FOLDER / folder for folder in (entry.folder, entry.made) if folder is not None]
        if entry.repository is not None:
            folders.append(Path(entry.repository))
        elif path.name in entry.files and (path.parent == FOLDER or entry.loadable):
            return name, path.parent
        if any(folder == path or folder in path.parents for folder in folders):
            return name, FOLDER
    return None
