"""Where image bytes come from: folders and lmdb."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from upsr.data.image_io import IMAGE_SUFFIXES, UnreadableImageError
from upsr.errors import UpsrError


class ImageBackend(Protocol):
    """Image bytes by key."""

    def keys(self) -> list[str]:
        """All keys, sorted."""
        ...

    def read(self, key: str) -> bytes:
        """The encoded image.

        Raises:
            UnreadableImageError: this image cannot be read; others may be.
            UpsrError: none can be read any more.
        """
        ...


class DiskBackend:
    """Images under a folder, at any depth; keys are paths relative to it, with ``/``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def keys(self) -> list[str]:
        """See :class:`ImageBackend`. Hidden files are left out."""
        found = (path for path in self.root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        relative = (path.relative_to(self.root) for path in found)
        return sorted(path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts))

    def read(self, key: str) -> bytes:
        """See :class:`ImageBackend`."""
        try:
            return (self.root / key).read_bytes()
        except OSError as error:
            if not self.root.is_dir():
                raise UpsrError(f"{self.root}: the dataset folder has vanished") from None
            raise UnreadableImageError(f"{self.root / key}: cannot be read ({error.strerror})") from None


class LmdbBackend:
    """BasicSR's layout: ``NAME.lmdb/`` with data.mdb and meta_info.txt; keys have no suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._environment: Any = None

    def keys(self) -> list[str]:
        """See :class:`ImageBackend`."""
        meta_info = self.root / "meta_info.txt"
        if not meta_info.is_file():
            raise UpsrError(f"{self.root}: no meta_info.txt inside; scripts/prepare/make_lmdb.py makes such a folder")
        return sorted(str(Path(name).with_suffix("")) for name in _names(meta_info))

    def read(self, key: str) -> bytes:
        """See :class:`ImageBackend`."""
        if self._environment is None:  # opened in the process that reads: an environment does not survive a fork
            import lmdb

            self._environment = lmdb.open(str(self.root), readonly=True, lock=False, readahead=False, meminit=False)
        with self._environment.begin(write=False) as transaction:
            data = transaction.get(key.encode())
        if data is None:
            raise UpsrError(f"{self.root}: no image '{key}' in this lmdb")
        return bytes(data)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_environment": None}


def open_backend(root: str | Path) -> ImageBackend:
    """The backend of a path: lmdb for ``*.lmdb``, else a folder.

    Raises:
        UpsrError: there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise UpsrError(f"{root}: no such folder of images")
    return LmdbBackend(root) if root.suffix == ".lmdb" else DiskBackend(root)


def list_keys(root: str | Path, meta_info: str | Path | None = None) -> list[str]:
    """Keys under ``root``: those of a meta-info file, or all.

    Args:
        meta_info: one name a line, relative to ``root``; what BasicSR appends (``(h,w,c)`` and a compression level) is
            ignored. Names may hold spaces.

    Raises:
        UpsrError: there are no images, or the file names one that is not there.
    """
    backend = open_backend(root)
    available = backend.keys()
    if not available:
        raise UpsrError(
            f"{root}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))}, at any depth)"
        )
    if meta_info is None:
        return available
    if not Path(meta_info).is_file():
        raise UpsrError(f"{meta_info}: no such meta-info file")
    known = set(available)
    keys = []
    for line, name in enumerate(_names(Path(meta_info)), start=1):
        key = name if name in known else str(Path(name).with_suffix(""))
        if key not in known:
            raise UpsrError(f"{meta_info}, entry {line}: no image '{name}' under {root}")
        keys.append(key)
    if not keys:
        raise UpsrError(f"{meta_info}: the file names no image")
    return keys


def _names(meta_info: Path) -> list[str]:
    lines = meta_info.read_text(encoding="utf-8").splitlines()
    return [re.sub(r"\s+\(\d+,\s*\d+(,\s*\d+)?\)(\s+\d+)?$", "", line.strip()) for line in lines if line.strip()]
