"""Copies of an image folder in forms that datasets read as they read the folder: lmdb, WebDataset shards; and lists of images."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from upsr.atomic import atomic_folder, atomic_write
from upsr.data.backends import open_backend
from upsr.data.shards import index_shards
from upsr.data.survey import survey
from upsr.errors import UpsrError

LeftOut = list[tuple[str, str]]
"""Name of an image that was left out, and the reason."""

_LMDB_GROWTH = 1 << 30
_SHARD = "shard-%06d.tar"


def make_lmdb(source: Path, target: Path, workers: int = 1) -> LeftOut:
    """Copy the encoded images into an lmdb in BasicSR's layout; those that cannot be decoded are left out.

    Args:
        workers: processes that decode, to find broken images.

    Raises:
        UpsrError: the target exists or does not end in ``.lmdb``, the source has no images that can be decoded, or two of them
            have one name but for the suffix, which keys of BasicSR's layout leave out.
    """
    import lmdb

    if target.suffix != ".lmdb":
        raise UpsrError(f"{target}: the name must end in .lmdb, by which datasets recognise it")

    def put(key: str, data: bytes) -> None:
        try:
            with environment.begin(write=True) as transaction:
                transaction.put(key.encode(), data)
        except lmdb.MapFullError:
            environment.set_mapsize(environment.info()["map_size"] + _LMDB_GROWTH + 2 * len(data))
            put(key, data)

    left_out: LeftOut = []
    lines: dict[str, str] = {}
    with atomic_folder(target, lmdb.DiskError) as folder:
        backend = open_backend(source)
        environment = lmdb.open(str(folder), map_size=_LMDB_GROWTH)
        for name, (height, width) in _whole(source, workers, left_out):
            key = str(Path(name).with_suffix(""))
            if key in lines:
                raise UpsrError(f"{source}: two images are named '{key}' but for the suffix; rename one")
            put(key, backend.read(name))
            lines[key] = f"{name} ({height},{width},3) 1\n"
        _refuse_none(source, lines, left_out)
        environment.sync()
        environment.close()
        (folder / "meta_info.txt").write_text("".join(lines.values()), encoding="utf-8")
    return left_out


def make_shards(source: Path, target: Path, megabytes: int = 512, workers: int = 1) -> LeftOut:
    """Copy the encoded images into WebDataset shards with an index; those that cannot be decoded are left out.

    The shards are plain tar files that the webdataset package streams too. With the index beside them, images are read by their
    place in a shard, from a disk or from object storage, and training sees what it would see with the folder.

    Args:
        megabytes: size of a shard.
        workers: processes that decode, to find broken images.

    Raises:
        UpsrError: the target exists, or the source has no images that can be decoded.
    """
    import webdataset

    left_out: LeftOut = []
    with atomic_folder(target) as folder:
        backend = open_backend(source)
        with webdataset.ShardWriter(
            str(folder / _SHARD), maxsize=megabytes << 20, maxcount=1 << 30, verbose=0
        ) as writer:
            names = []
            for name, _ in _whole(source, workers, left_out):
                stem, suffix = os.path.splitext(name)
                writer.write({"__key__": stem, suffix[1:]: backend.read(name)})
                names.append(name)
        _refuse_none(source, names, left_out)
        index_shards(folder)
    return left_out


def make_meta_info(source: Path, target: Path, min_size: int, workers: int = 1) -> LeftOut:
    """Write a dataset's ``meta_info``: a line ``name (h,w,c)`` for each image that can be decoded and is large enough.

    Args:
        min_size: smallest side of an image, in pixels.
        workers: processes that decode.

    Raises:
        UpsrError: no image is left.
    """
    left_out: LeftOut = []
    lines = []
    for name, (height, width) in _whole(source, workers, left_out):
        if min(height, width) < min_size:
            left_out.append((name, f"{width}x{height} is smaller than {min_size}"))
        else:
            lines.append(f"{name} ({height},{width},3)\n")
    _refuse_none(source, lines, left_out)
    with atomic_write(target) as path:
        path.write_text("".join(lines), encoding="utf-8")
    return left_out


def _refuse_none(source: Path, kept: Collection[str], left_out: LeftOut) -> None:
    if not kept:
        name, reason = left_out[0]
        raise UpsrError(
            f"{source}: all of its {len(left_out)} images are left out, so nothing is written; {name} for one: {reason}"
        )


def _whole(source: Path, workers: int, left_out: LeftOut) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and (height, width) of the images that can be decoded; the others go to ``left_out``."""
    for found in survey(source, workers):
        if found.size is None:
            left_out.append((found.key, found.fault))
        else:
            yield found.key, found.size
