"""WebDataset shards: with random access, and as commands make them that compute their content."""

from __future__ import annotations

import bisect
import io
import json
import os
import tarfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from upsr.atomic import atomic_write
from upsr.config.load import merged
from upsr.data.packed_strings import PackedStrings
from upsr.errors import UpsrError
from upsr.images.kinds import PHOTO_SUFFIXES, UnreadableImageError
from upsr.text import printable, read_text

RECIPE_FILE = "recipe.json"


class ShardBackend:
    """WebDataset tar files and an index of them, from a disk or from any storage that fsspec knows.

    Images are read by their offset in a shard, so the sampler decides order and distribution over processes, as for a folder.

    Args:
        index: ``index.json`` that `upsr data shards` writes beside the shards; a path or a URL (``s3://...``).
    """

    _TRIES = 3

    def __init__(self, index: str) -> None:
        self.index = index
        self._remote = "://" in index
        self._files, places = _read_index(index, self._remote)
        self._keys = PackedStrings(key for key, *_ in places)
        self._places = np.array([place for _, *place in places], np.int64).reshape(-1, 3)
        self._open: dict[str, int] = {}
        self._storage: Any = None

    def keys(self) -> list[str]:
        """See :class:`upsr.data.backends.ImageBackend`."""
        return list(self._keys)

    def name(self, key: str) -> str:
        """See :class:`upsr.data.backends.ImageBackend`."""
        return os.path.splitext(key)[0]

    def read(self, key: str) -> bytes:
        """See :class:`upsr.data.backends.ImageBackend`."""
        offset, size, shard = self._places[bisect.bisect_left(self._keys, key)].tolist()
        path = "".join(self.index.rpartition("/")[:2]) + self._files[shard]
        data = self._from_storage(path, offset, size) if self._remote else self._from_disk(path, offset, size)
        if len(data) != size:
            raise UnreadableImageError(f"{path}: '{key}' is cut off; the shard is shorter than its index says")
        return data

    def _from_disk(self, path: str, offset: int, size: int) -> bytes:
        try:
            if path not in self._open:  # opened in the process that reads
                self._open[path] = os.open(path, os.O_RDONLY)
            return os.pread(self._open[path], size, offset)
        except OSError as error:
            raise UpsrError(f"{path}: the shard cannot be read ({error.strerror})") from None

    def _from_storage(self, path: str, offset: int, size: int) -> bytes:
        for attempt in range(self._TRIES):
            try:
                if self._storage is None:  # connected in the process that reads: connections do not survive a fork
                    import fsspec

                    self._storage = fsspec.core.url_to_fs(path)[0]
                return self._storage.cat_file(path, start=offset, end=offset + size)
            except Exception as error:  # each storage has errors of its own
                self._storage = None
                if attempt + 1 == self._TRIES:
                    raise UpsrError(f"{path}: the shard cannot be read, tried {self._TRIES} times ({error})") from None
                time.sleep(2.0**attempt)
        raise AssertionError("unreachable")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}, "_storage": None}


def index_shards(folder: Path, suffixes: Collection[str] = PHOTO_SUFFIXES) -> int:
    """Write ``index.json`` of the tar files in a folder; returns the number of images.

    Args:
        suffixes: of the files in them that are indexed.

    Raises:
        UpsrError: there are no shards, one is damaged, or two images have one name.
    """
    shards: list[dict[str, Any]] = []
    names: set[str] = set()
    for path in sorted(folder.glob("*.tar")):
        try:
            with tarfile.open(path) as tar:
                members = [(member.name, member.offset_data, member.size) for member in tar if member.isfile()]
        except (tarfile.TarError, OSError) as error:
            raise UpsrError(f"{path}: not a readable shard ({error})") from None
        images = [member for member in members if Path(member[0]).suffix.lower() in suffixes]
        for name, *_ in images:
            if name in names:
                raise UpsrError(f"{path}: '{name}' stands in the shards twice; names must be distinct")
            names.add(name)
        shards.append({"file": path.name, "images": images})
    if not names:
        raise UpsrError(f"{folder}: no shards (*.tar) with images in it")
    with atomic_write(folder / "index.json") as path:
        path.write_text(json.dumps({"format": 1, "shards": shards}), encoding="utf-8")
    return len(names)


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file without times and owners: a shard has the same bytes whenever and by whomever it is made."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def keep_recipe(folder: Path, made_by: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Write ``recipe.json``, which says what the shards of a folder come from, or compare it with the one that is there.

    Args:
        made_by: by keys that messages name.
        defaults: values of what files of earlier versions lack.

    Raises:
        UpsrError: the folder's shards come from elsewhere, or its file is damaged.
    """
    path, made_by = folder / RECIPE_FILE, json.loads(json.dumps(made_by))
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(made_by, indent=1) + "\n", encoding="utf-8")
        return
    try:
        before = merged(defaults or {}, json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise UpsrError(f"{path}: damaged; remove the folder, or name another with --out") from None
    for key, value in made_by.items():
        if before.get(key) != value:
            raise UpsrError(
                f"{folder}: its shards were made with another {key} ({RECIPE_FILE}); remove it, or name another with --out"
            )


_Place = tuple[str, int, int, int]
"""An image: its key, its offset and size in a shard, and the shard's number."""


def _read_index(index: str, remote: bool) -> tuple[list[str], list[_Place]]:
    """Files of the shards, and the images in the order of their keys."""
    try:
        if remote:
            import fsspec

            with fsspec.open(index, "rb") as file:
                shards = json.loads(file.read())["shards"]
        else:
            shards = json.loads(read_text(index))["shards"]
        files = [str(shard["file"]) for shard in shards]
        return files, sorted(
            (printable(key), int(offset), int(size), number)
            for number, shard in enumerate(shards)
            for key, offset, size in shard["images"]
        )
    except FileNotFoundError:
        raise UpsrError(f"{index}: no such index of shards; `upsr data shards` makes one") from None
    except UpsrError:
        raise
    except Exception as error:  # storages and readers have errors of their own
        raise UpsrError(f"{index}: not a readable index of shards ({type(error).__name__}: {error})") from None
