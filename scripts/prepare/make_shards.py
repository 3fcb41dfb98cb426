"""Put a folder of images into WebDataset shards with an index, which datasets read as they read a folder.

The shards are plain tar files that the webdataset package streams too. With the index beside them, images are read by their
place in a shard, from a disk or from object storage, and training sees what it would see with the folder.

examples:
  python -m scripts.prepare.make_shards --input datasets/ImageNet/train --output datasets/imagenet_shards
  python -m scripts.prepare.make_shards --index-only datasets/shards_from_elsewhere

then, in the option file:
  dataroot_gt: datasets/imagenet_shards/index.json      # or s3://bucket/imagenet_shards/index.json, with s3fs installed
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from upsr.data.backends import open_backend
from upsr.data.shards import index_shards
from upsr.data.survey import survey
from upsr.errors import UpsrError

_PATTERN = "shard-%06d.tar"


def make_shards(source: Path, target: Path, megabytes: int = 512, workers: int = 1) -> list[tuple[str, str]]:
    """Copy the encoded images; returns (name, reason) of those left out because they cannot be decoded.

    Args:
        megabytes: size of a shard.
        workers: processes that decode, to find broken images.

    Raises:
        UpsrError: the target exists, or the source has no images.
    """
    import webdataset

    if target.exists():
        raise UpsrError(f"{target}: exists already; remove it or choose another name")
    unfinished = target.with_name(f".{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    backend, left_out = open_backend(source), []
    try:
        pattern = str(unfinished / _PATTERN)
        with webdataset.ShardWriter(pattern, maxsize=megabytes << 20, maxcount=1 << 30, verbose=0) as writer:
            for found in survey(source, workers):
                if found.size is None:
                    left_out.append((found.key, found.fault))
                    continue
                stem, suffix = os.path.splitext(found.key)
                writer.write({"__key__": stem, suffix[1:]: backend.read(found.key)})
        index_shards(unfinished)
        unfinished.rename(target)
    except OSError as error:
        raise UpsrError(f"{target}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return left_out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="folder of images, searched at any depth")
    parser.add_argument("--output", type=Path, help="folder to make")
    parser.add_argument("--index-only", type=Path, metavar="FOLDER", help="index shards that are there already")
    parser.add_argument("--megabytes", type=int, default=512, help="size of a shard (default 512)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    arguments = parser.parse_args()
    if bool(arguments.index_only) == bool(arguments.input and arguments.output):
        parser.error("give --input and --output, or --index-only")
    try:
        if arguments.index_only:
            print(f"{index_shards(arguments.index_only)} images in {arguments.index_only / 'index.json'}")
            return 0
        left_out = make_shards(arguments.input, arguments.output, arguments.megabytes, arguments.workers)
    except UpsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, reason in left_out:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
