"""Put a folder of images into an lmdb in BasicSR's layout, which datasets read as they read a folder.

example:
  python -m scripts.prepare.make_lmdb --input datasets/photos --output datasets/photos.lmdb
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import lmdb

from upsr.data.backends import open_backend
from upsr.data.survey import survey
from upsr.errors import UpsrError

_GROWTH = 1 << 30


def make_lmdb(source: Path, target: Path, workers: int = 1) -> list[tuple[str, str]]:
    """Copy the encoded images; returns (name, reason) of those left out because they cannot be decoded.

    Args:
        workers: processes that decode, to find broken images.

    Raises:
        UpsrError: the target exists or does not end in ``.lmdb``, the source has no images, or two of them have one name
            but for the suffix, which keys of BasicSR's layout leave out.
    """
    if target.suffix != ".lmdb":
        raise UpsrError(f"{target}: the name must end in .lmdb, by which datasets recognise it")
    if target.exists():
        raise UpsrError(f"{target}: exists already; remove it or choose another name")
    backend = open_backend(source)
    unfinished = target.with_name(f".{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    left_out: list[tuple[str, str]] = []
    lines: dict[str, str] = {}
    try:
        environment = lmdb.open(str(unfinished), map_size=_GROWTH)
        for found in survey(source, workers):
            if found.size is None:
                left_out.append((found.key, found.fault))
                continue
            key = str(Path(found.key).with_suffix(""))
            if key in lines:
                raise UpsrError(f"{source}: two images are named '{key}' but for the suffix; rename one")
            _put(environment, key, backend.read(found.key))
            lines[key] = f"{found.key} ({found.size[0]},{found.size[1]},3) 1\n"
        environment.sync()
        environment.close()
        (unfinished / "meta_info.txt").write_text("".join(lines.values()), encoding="utf-8")
        unfinished.rename(target)
    except (OSError, lmdb.DiskError) as error:
        raise UpsrError(f"{target}: cannot be written ({error})") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return left_out


def _put(environment: lmdb.Environment, key: str, data: bytes) -> None:
    try:
        with environment.begin(write=True) as transaction:
            transaction.put(key.encode(), data)
    except lmdb.MapFullError:
        environment.set_mapsize(environment.info()["map_size"] + _GROWTH + 2 * len(data))
        _put(environment, key, data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of images, searched at any depth")
    parser.add_argument("--output", type=Path, required=True, help="NAME.lmdb to make")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    arguments = parser.parse_args()
    try:
        left_out = make_lmdb(arguments.input, arguments.output, arguments.workers)
    except UpsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in left_out:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
