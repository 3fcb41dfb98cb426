"""Checks of weight files, and the record of digests and accepted licences beside them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from upsr.archs.weights import read_weight_file
from upsr.atomic import atomic_write
from upsr.errors import UpsrError
from upsr.provenance import file_digest
from upsr.weights.catalogue import File

NAME = "weights.lock.json"
_SHOWN = 12


class Lock:
    """The digests of first fetched files and the accepted licences, in ``weights.lock.json`` of a folder.

    Raises:
        UpsrError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._data: dict[str, Any] = {"files": {}, "accepted": []}
        if self._path.is_file():
            try:
                self._data |= json.loads(self._path.read_text(encoding="utf-8"))
                self._data = {"files": dict(self._data["files"]), "accepted": list(self._data["accepted"])}
            except (ValueError, TypeError) as error:
                raise UpsrError(f"{self._path}: damaged ({error}); remove it, and the next fetch writes it") from None

    def digest(self, name: str) -> str | None:
        """The digest of a file by its path below the folder; ``None`` before it was fetched."""
        entry = self._data["files"].get(name)
        return entry["sha256"] if entry else None

    def add(self, name: str, digest: str, size: int, source: str) -> None:
        """Records a checked file."""
        self._data["files"][name] = {"sha256": digest, "size": size, "source": source}
        self._write()

    def accepted(self, entry: str) -> bool:
        """The non-commercial licence of an entry was accepted."""
        return entry in self._data["accepted"]

    def accept(self, entry: str) -> None:
        """Records that it is."""
        self._data["accepted"] = sorted({*self._data["accepted"], entry})
        self._write()

    def _write(self) -> None:
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
    for known, whose in ((file.sha256, "catalogue"), (locked, NAME)):
        if known is not None:
            if digest != known:
                raise UpsrError(f"sha256 {digest[:_SHOWN]}... in place of {known[:_SHOWN]}... ({whose})")
            return digest, f"sha256 as in {'the catalogue' if whose == 'catalogue' else whose}"
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
