"""Goes through a whole set of images with many processes: which are whole, how large they are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from upsr.data.backends import ImageBackend, list_keys, open_backend
from upsr.data.image_io import UnreadableImageError, decode_image

_CHUNK = 64

_backend: ImageBackend | None = None


@dataclass(frozen=True)
class Finding:
    """An image.

    Attributes:
        size: (height, width), or ``None`` for one that cannot be decoded.
        fault: why it cannot be.
    """

    key: str
    size: tuple[int, int] | None
    fault: str = ""


def survey(source: Path, workers: int) -> Iterator[Finding]:
    """Every image under ``source``, in the order of the keys, decoded whole, with a progress bar.

    Args:
        workers: processes.

    Raises:
        UpsrError: there are no images.
    """
    keys = list_keys(source)
    with ProcessPoolExecutor(max_workers=workers, initializer=_open, initargs=(source,)) as pool:
        chunk = max(1, min(_CHUNK, len(keys) // (4 * workers)))
        yield from tqdm(
            pool.map(_examine, keys, chunksize=chunk), total=len(keys), desc="reading", unit="image", disable=None
        )


def _open(source: Path) -> None:
    global _backend
    torch.set_num_threads(1)
    _backend = open_backend(source)


def _examine(key: str) -> Finding:
    if _backend is None:
        raise RuntimeError("the process was not set up")
    try:
        height, width, _ = decode_image(_backend.read(key), 3, key).shape
    except UnreadableImageError as error:
        return Finding(key, None, str(error))
    return Finding(key, (height, width))
