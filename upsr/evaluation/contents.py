"""Digests of the files that the images of an evaluation come from.

Numbers are kept under these digests, so that none is shown of a file that has changed since. Sizes and times of files would be
cheaper, but ``cp -p`` keeps both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from upsr.data.datasets import Sides
from upsr.data.image_io import UnreadableImageError
from upsr.provenance import digest_of, file_digest

_DIGITS = 16


def contents(sides: Sides, names: Sequence[str]) -> dict[str, str]:
    """Digest of the files of a dataset's first items, by name; one with a file that cannot be read has none.

    Args:
        names: of the items, in their order.
    """
    found = {name: content_of(sides, i) for i, name in enumerate(names)}
    return {name: content for name, content in found.items() if content is not None}


def content_of(sides: Sides, index: int) -> str | None:
    """Digest of the files of one item; ``None`` where one cannot be read, which an evaluation says when it is its turn."""
    try:
        return digest_of({kind: images.digest(keys[index]) for kind, (images, keys) in sides.items()})[:_DIGITS]
    except UnreadableImageError:
        return None


def digest_of_file(path: Path) -> str | None:
    """sha256 of a file, ``None`` where there is none."""
    try:
        return file_digest(path)
    except OSError:
        return None
