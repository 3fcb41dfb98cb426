"""Storage of encoded images: folders, lmdb, WebDataset shards."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from pathlib import Path
from typing import Any, Protocol

from upsr.data.shards import ShardBackend
from upsr.errors import UpsrError
from upsr.images.kinds import PHOTO_SUFFIXES, UnreadableImageError
from upsr.text import printable, read_text


class ImageBackend(Protocol):
    """Image bytes by key."""

    def keys(self) -> list[str]:
        """All keys, sorted."""
        ...

    def name(self, key: str) -> str:
        """The image's name: its key without the suffix of its format, so that an image has one name wherever it is kept."""
        ...

    def read(self, key: str) -> bytes:
        """The encoded image.

        Raises:
            UnreadableImageError: this image cannot be read; others may be.
            UpsrError: none can be read any more.
        """
        ...


class DiskBackend:
    """Images under a folder, at any depth; keys are paths relative to it, with ``/``.

    The key of a path that is no UTF-8 is what :func:`upsr.text.printable` makes of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._odd: dict[str, str] = {}

    def keys(self) -> list[str]:
        """See :class:`ImageBackend`. Hidden files are left out."""
        found = []
        for folder, below, names in os.walk(self.root):  # a million files in seconds: no file is asked for its kind
            below[:] = [name for name in below if not name.startswith(".")]
            prefix = Path(folder).relative_to(self.root).as_posix()
            prefix = "" if prefix == "." else f"{prefix}/"
            found += [self._key(prefix + name) for name in names if _is_image(name)]
        return sorted(found)

    def _key(self, path: str) -> str:
        key = printable(path)
        if key != path:
            self._odd[key] = path
        return key

    def name(self, key: str) -> str:
        """See :class:`ImageBackend`."""
        return without_suffix(key)

    def read(self, key: str) -> bytes:
        """See :class:`ImageBackend`."""
        path = self.root / self._odd.get(key, key)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep its reader waiting for ever
                raise UnreadableImageError(f"{self.root / key}: not a file")
            return path.read_bytes()
        except OSError as error:
            if not self.root.is_dir():
                raise UpsrError(f"{self.root}: the dataset folder has vanished") from None
            raise UnreadableImageError(f"{self.root / key}: cannot be read ({error.strerror})") from None


class LmdbBackend:
    """BasicSR's layout: ``NAME.lmdb/`` with data.mdb and meta_info.txt; keys have no suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def keys(self) -> list[str]:
        """See :class:`ImageBackend`."""
        meta_info = self.root / "meta_info.txt"
        if not meta_info.is_file():
            raise UpsrError(f"{self.root}: no meta_info.txt inside; `upsr data lmdb` makes such a folder")
        # In the order of the files they come from, so that index i is the same image as in the folder.
        return [os.path.splitext(name)[0] for name in sorted(_names(meta_info))]

    def name(self, key: str) -> str:
        """See :class:`ImageBackend`."""
        return key

    def read(self, key: str) -> bytes:
        """See :class:`ImageBackend`."""
        with _lmdb_environment(self.root).begin(write=False) as transaction:
            data = transaction.get(key.encode())
        if data is None:
            raise UpsrError(f"{self.root}: no image '{key}' in this lmdb")
        return bytes(data)


_environments: dict[Path, tuple[int, Any]] = {}


def _lmdb_environment(root: Path) -> Any:
    """The open lmdb of this process. A process may open each once, and must reopen one that it inherited by a fork."""
    import lmdb

    process, environment = _environments.get(root, (None, None))
    if process == os.getpid():
        return environment
    if environment is not None:
        environment.close()
    environment = lmdb.open(str(root), readonly=True, lock=False, readahead=False, meminit=False)
    _environments[root] = (os.getpid(), environment)
    return environment


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES and not name.startswith(".")


def without_suffix(name: str) -> str:
    """A file's name without the suffix of an image format; what follows another dot is part of the name."""
    return os.path.splitext(name)[0] if _is_image(posixpath.basename(name)) else name


def open_backend(root: str | Path) -> ImageBackend:
    """The backend of a path: shards for an ``index.json``, lmdb for ``*.lmdb``, else a folder.

    Raises:
        UpsrError: there is no such folder or index.
    """
    if str(root).endswith(".json"):
        return ShardBackend(str(root))
    root = Path(root)
    if not root.is_dir():
        raise UpsrError(f"{root}: no such folder of images")
    return LmdbBackend(root) if root.suffix == ".lmdb" else DiskBackend(root)


def list_keys(root: str | Path, meta_info: str | Path | None = None, backend: ImageBackend | None = None) -> list[str]:
    """Keys under ``root``: those of a meta-info file, or all.

    Args:
        meta_info: one name a line, relative to ``root``; what BasicSR appends (``(h,w,c)`` and a compression level) is
            ignored. Names may hold spaces.
        backend: that of the root, where it is open already.

    Raises:
        UpsrError: there are no images, or the file names one that is not there.
    """
    backend = backend or open_backend(root)
    available = backend.keys()
    if not available:
        if any(Path(root).glob("*.tar")):
            index = Path(root) / "index.json"
            first = "" if index.is_file() else f", which `upsr data shards --index-only {root}` makes"
            raise UpsrError(f"{root}: a folder of shards; name their index in its place{first}: {index}")
        raise UpsrError(
            f"{root}: no images in this folder (looked for {', '.join(sorted(PHOTO_SUFFIXES))}, at any depth)"
        )
    if meta_info is None:
        return available
    if not Path(meta_info).is_file():
        raise UpsrError(f"{meta_info}: no such meta-info file")
    known = set(available)
    keys = []
    for line, name in enumerate(_names(Path(meta_info)), start=1):
        plain = posixpath.normpath(name.replace("\\", "/"))
        bare = without_suffix(plain)
        key = next((key for key in (name, plain, bare) if key in known), None)
        if key is None or (key == bare != plain and backend.name(key) != key):  # a bare name is an lmdb's
            raise UpsrError(f"{meta_info}, entry {line}: no image '{name}' under {root}")
        keys.append(key)
    if not keys:
        raise UpsrError(f"{meta_info}: the file names no image")
    return keys


def names_in(listing: str | Path) -> set[str]:
    """The names in a text file, one a line, as :func:`list_keys` reads them.

    Raises:
        UpsrError: there is no such file.
    """
    if not Path(listing).is_file():
        raise UpsrError(f"{listing}: no such list of names")
    return set(_names(Path(listing)))


def _names(meta_info: Path) -> list[str]:
    lines = read_text(meta_info).split("\n")
    return [re.sub(r"\s+\(\d+,\s*\d+(,\s*\d+)?\)(\s+\d+)?$", "", line.strip()) for line in lines if line.strip()]
