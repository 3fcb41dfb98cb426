"""Photos that inputs name, and the reasons for which other files are passed over."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from upsr.errors import UpsrError, one_line
from upsr.images.kinds import CAMERA_RAW_SUFFIXES, is_photo

STREAM = Path("-")
"""Standard input or output. A file of this name has its whole path."""


@dataclass(frozen=True)
class Source:
    """A photo.

    Attributes:
        path: the file, or :data:`STREAM`.
        inside: its place below the input that named it.
        in_folder: the input was a folder.
    """

    path: Path
    inside: Path
    in_folder: bool = False


@dataclass(frozen=True)
class Remark:
    """A message about a file or folder.

    Attributes:
        kind: "skipped" and "failed" count as files that are not done; a "note" does not.
    """

    path: Path
    text: str
    kind: Literal["skipped", "failed", "note"]


OnRemark = Callable[[Remark], None]


def find_sources(inputs: Sequence[str], out: Path, remark: OnRemark) -> list[Source]:
    """Each photo that the inputs name, once.

    Folders are searched recursively. Links are followed, and no folder is entered twice. A file that is named itself is a photo
    whatever its suffix. Only regular files are opened.

    Args:
        out: folder of the results, which is not searched below another one.

    Raises:
        UpsrError: an input is not there.
    """
    found: dict[tuple[str, str], Source] = {}
    for name in inputs:
        for source in _named(name, out, remark):
            stream = source.path == STREAM
            found.setdefault(("", "-") if stream else (os.path.realpath(source.path.parent), source.path.name), source)
    return list(found.values())


def irregular(path: Path) -> str | None:
    """The kind of a path that is never opened, as "a named pipe"; ``None`` for files and for missing paths."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    kinds = {
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((words for is_kind, words in kinds.items() if is_kind(mode)), None)


def _named(name: str, out: Path, remark: OnRemark) -> Iterator[Source]:
    if name == "-":
        yield Source(STREAM, Path("stdin"))
    elif os.path.isdir(name):
        yield from _below(Path(name), out, remark)
    elif os.path.lexists(name):
        yield _file(Path(name))
    else:
        matches = list(_matching(name))
        if not matches:
            raise UpsrError(f"{one_line(name)}: no such file or folder, and no pattern that anything matches")
        for path in matches:
            if path.is_dir():
                remark(Remark(path, "a folder; name it without a pattern to have it searched", "note"))
            elif kind := irregular(path):
                remark(Remark(path, kind, "skipped"))
            else:
                yield _file(path)


def _file(path: Path, inside: Path | None = None) -> Source:
    place = path.absolute() if path == STREAM else path
    return Source(place, inside or Path(path.name), in_folder=inside is not None)


def _below(folder: Path, out: Path, remark: OnRemark) -> Iterator[Source]:
    """Photos in a folder and below it, sorted. Folders are entered by their own names before links to them."""
    top, results = os.path.realpath(folder), os.path.realpath(out)
    entered: set[str] = set()
    starts = [folder]

    def unreadable(error: OSError) -> None:
        remark(Remark(Path(error.filename), f"the folder cannot be read ({error.strerror})", "failed"))

    while starts:
        links: list[Path] = []
        for start in starts:
            for root, folders, files in os.walk(start, onerror=unreadable):
                if reason := _closed(Path(root), folder, top, results, entered):
                    remark(Remark(Path(root), reason, "note"))
                    folders.clear()
                    continue
                entered.add(os.path.realpath(root))
                folders.sort()
                links += [Path(root, name) for name in folders if os.path.islink(Path(root, name))]
                for name in sorted(files):
                    path = Path(root, name)
                    if reason := _no_photo(path):
                        remark(Remark(path, reason, "skipped"))
                    else:
                        yield _file(path, path.relative_to(folder))
        starts = sorted(links)


def _closed(root: Path, folder: Path, top: str, results: str, entered: set[str]) -> str | None:
    """The reason for which a folder is not searched, if there is one."""
    real = os.path.realpath(root)
    if real in entered or (root != folder and os.path.commonpath([real, top]) == real):
        return f"not searched: it leads to {one_line(real)}, which is searched by its own name"
    if real == results and root != folder:
        return "not searched: the results go there"
    return None


def _no_photo(path: Path) -> str | None:
    """The reason for which a file in a folder is passed over, if there is one."""
    if path.name.startswith("."):
        return "hidden"
    if kind := irregular(path):
        return kind
    if is_photo(path):
        return None
    ending = path.suffix.lower()
    if ending in CAMERA_RAW_SUFFIXES:
        return f"a camera's raw file ({ending}), to be developed first"
    if not path.exists():
        return "a link to nothing"
    return f"no photo ({ending or 'no suffix'})"


def _matching(pattern: str) -> Iterator[Path]:
    """Paths that match a pattern, sorted. A part that names an existing path is taken literally, as brackets in names are."""
    parts = Path(pattern).parts
    yield from map(Path, _expanded("", list(parts), set()))


def _expanded(base: str, parts: list[str], entered: set[tuple[str, int]]) -> Iterator[str]:
    if not parts:
        yield base
        return
    head, rest = parts[0], parts[1:]
    if head == "**":
        place = os.path.realpath(base or "."), len(parts)
        if place in entered:
            return
        entered.add(place)
        yield from _expanded(base, rest or ["*"], entered)
        for name in _listed(base, head):
            if os.path.isdir(os.path.join(base, name)):
                yield from _expanded(os.path.join(base, name), parts, entered)
    elif os.path.lexists(os.path.join(base, head)):
        yield from _expanded(os.path.join(base, head), rest, entered)
    elif glob.has_magic(head):
        for name in fnmatch.filter(_listed(base, head), head):
            if not rest or os.path.isdir(os.path.join(base, name)):
                yield from _expanded(os.path.join(base, name), rest, entered)


def _listed(folder: str, pattern: str) -> list[str]:
    """Names in a folder, the hidden ones only for a pattern that begins as they do."""
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        return []
    return [name for name in names if pattern.startswith(".") or not name.startswith(".")]
