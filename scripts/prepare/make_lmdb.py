"""Put a folder of images into an lmdb in BasicSR's layout, which datasets read as they read a folder.

example:
  python -m scripts.prepare.make_lmdb --input datasets/photos --output datasets/photos.lmdb
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import lmdb
from tqdm import tqdm

from upsr.data.backends import list_keys, open_backend
from upsr.data.image_io import UnreadableImageError, decode_image
from upsr.errors import UpsrError

_GROWTH = 1 << 30


def make_lmdb(source: Path, target: Path) -> list[tuple[str, str]]:
    """Copy the encoded images; returns (name, reason) of those left out because they cannot be decoded.

    Raises:
        UpsrError: the target exists or does not end in ``.lmdb``, or the source has no images.
    """
    if target.suffix != ".lmdb":
        raise UpsrError(f"{target}: the name must end in .lmdb, by which datasets recognise it")
    if target.exists():
        raise UpsrError(f"{target}: exists already; remove it or choose another name")
    keys, backend = list_keys(source), open_backend(source)
    unreadable, lines = [], []
    environment = lmdb.open(str(target), map_size=_GROWTH)
    for key in tqdm(keys, desc="lmdb", unit="image", disable=None):
        data = backend.read(key)
        try:
            height, width, _ = decode_image(data, 3, key).shape
        except UnreadableImageError as error:
            unreadable.append((key, str(error)))
            continue
        _put(environment, str(Path(key).with_suffix("")), data)
        lines.append(f"{key} ({height},{width},3) 1\n")
    environment.sync()
    environment.close()
    (target / "meta_info.txt").write_text("".join(lines), encoding="utf-8")
    return unreadable


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
    arguments = parser.parse_args()
    try:
        unreadable = make_lmdb(arguments.input, arguments.output)
    except UpsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in unreadable:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
