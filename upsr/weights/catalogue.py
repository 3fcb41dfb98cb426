"""Published weights and backbones by name: files, digests, sources, terms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from upsr.config.problems import did_you_mean
from upsr.errors import UpsrError

FOLDER = Path("experiments/pretrained_models")
"""The folder that option files expect weights in."""


class _Structure(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Structure):
    """A weight file. Size in bytes, or a text where it is only about known."""

    size: int | str | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")


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
        words = [*catalogue, *(word for entry in catalogue.values() for word in entry.used_by)]
        raise UpsrError(f"{name}: no published weights of this name{did_you_mean(name, words)}; see upsr weights list")
    needed = [need for known in meant for need in catalogue[known].needs]
    return {known: catalogue[known] for known in dict.fromkeys((*needed, *meant))}


def fetch_hint(paths: Iterable[str | Path]) -> str:
    """The ending of an error about missing files: the command that fetches those that the catalogue has."""
    places: dict[Path, str] = {}
    for name, entry in read_catalogue().items():
        places |= {FOLDER / file: name for file in entry.files if entry.repository is None}
        places |= {Path(place): name for place in (entry.repository,) if place is not None}
        places |= {FOLDER / entry.folder: name} if entry.folder else {}
        if entry.then:
            places[Path(entry.then.rpartition(" -o ")[2])] = name
    missing = [Path(path) for path in paths if not Path(path).is_file()]
    names = [name for place, name in places.items() if any(place == path or place in path.parents for path in missing)]
    return f"; fetch them: upsr weights fetch {' '.join(dict.fromkeys(names))}" if names else ""
