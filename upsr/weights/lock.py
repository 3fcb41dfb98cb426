"""Checks of weight files, and the record of digests and accepted licences beside them."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upsr.archs.weights import read_weight_file
from upsr.atomic import atomic_write, held, writable_folder
from upsr.errors import UpsrError
from upsr.provenance import file_digest
from upsr.weights.catalogue import File

NAME = "weights.lock.json"
_SHOWN, _DIGITS = 12, 64


class Lock:
    """The record in ``weights.lock.json`` of a folder: digests of first fetched files, accepted licences, first restorations.

    Raises:
        UpsrError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._data = self._read()

    def digest(self, name: str) -> str | None:
        """The digest of a file by its path below the folder; ``None`` before it was fetched."""
        entry = self._data["files"].get(name)
        return entry["sha256"] if entry else None

    def add(self, name: str, digest: str, size: int, source: str) -> None:
        """Records a checked file."""
        with self._changing() as data:
            data["files"][name] = {"sha256": digest, "size": size, "source": source}

    def accepted(self, entry: str) -> bool:
        """The non-commercial licence of an entry was accepted."""
        return entry in self._data["accepted"]

    def accept(self, entry: str) -> None:
        """Records that it is."""
        with self._changing() as data:
            data["accepted"] = sorted({*data["accepted"], entry})

    def restored(self, entry: str) -> list[float] | None:
        """The first restoration with an entry, see :func:`upsr.pipeline.verification.restored_values`."""
        found: list[float] | None = self._data["restored"].get(entry)
        return found

    def add_restored(self, entry: str, values: list[float]) -> None:
        """Records it."""
        with self._changing() as data:
            data["restored"][entry] = values

    def _read(self) -> dict[str, Any]:
        if not self._path.is_file():
            return {"files": {}, "accepted": [], "restored": {}}
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                "files": {
                    name: {**entry, "sha256": str(entry["sha256"])} for name, entry in data.get("files", {}).items()
                },
                "accepted": list(data.get("accepted", [])),
                "restored": dict(data.get("restored", {})),
            }
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UpsrError(f"{self._path}: damaged ({error}); remove it, and the next fetch writes it") from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """What the file holds by now, to be changed and written; other processes may record in the same folder."""
        writable_folder(self._path.parent)
        with held(self._path):
            self._data = self._read()
            yield self._data
            with atomic_write(self._path) as path:
                path.write_text(json.dumps(self._data, indent=1) + "\n", encoding="utf-8")


def check_file(path: Path, name: str, file: File, lock: Lock) -> tuple[str, str]:
    """The digest of a file and what it was compared with.

    Without a digest of the catalogue or the lock file, the file must be one of torch or safetensors that reads without
    running anything in it, and whose archive has no wrong checksum.

    Raises:
        UpsrError: it is another file, or damaged.
    """
    if isinstance(file.size, int) and path.stat().st_size != file.size:
        raise UpsrError(f"{path.stat().st_size} bytes in place of {file.size}")
    with path.open("rb") as start:
        if start.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
            raise UpsrError("a page (HTML) in place of the file")
    digest, locked = file_digest(path), lock.digest(name)
    known = [(sha, whose) for sha, whose in ((file.sha256, "the catalogue"), (locked, NAME)) if sha is not None]
    if known and len(known[0][0]) == _DIGITS:
        known = known[:1]  # the catalogue may know the first digits alone
    for sha, whose in known:
        if not digest.startswith(sha):
            raise UpsrError(f"sha256 {digest[:_SHOWN]}... in place of {sha[:_SHOWN]}... ({whose.removeprefix('the ')})")
    if known:
        return digest, f"sha256 as in {known[0][1]}"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            try:
                damaged = archive.testzip()
            except Exception as error:  # damaged archives fail in many ways
                damaged = str(error)
        if damaged:
            raise UpsrError(f"damaged ({damaged})")
    try:
        if not read_weight_file(path):
            raise UpsrError("empty")
    except UpsrError as error:
        raise UpsrError(str(error).removeprefix(f"{path}: ")) from None
    return digest, "readable weights; no digest is known"
