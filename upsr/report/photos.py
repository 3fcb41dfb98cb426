"""Photos of an evaluation for pages: restored pictures, originals, and the places where methods differ most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from upsr.data.image_io import decode_image, to_tensor, to_uint8
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.results import Row
from upsr.evaluation.work import content_of, pictures_of

Pixels = NDArray[np.uint8]


def first_rows(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, Row]]]:
    """A row of the smallest seed, by dataset, image and method."""
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for row in sorted(rows, key=lambda row: row.seed):
        found.setdefault(row.dataset, {}).setdefault(row.image, {}).setdefault(row.method, row)
    return found


def picture_of(folder: Path, row: Row) -> Path:
    """File of the restored image that a row was measured on, in the folder of an evaluation."""
    return pictures_of(folder, row.method, row.seed, row.dataset) / f"{row.image}.png"


def read_picture(path: Path) -> Pixels:
    """(H, W, 3) RGB."""
    return decode_image(path.read_bytes(), 3, str(path))


class Originals:
    """LR and HR images of a dataset, as far as the files have not changed since."""

    def __init__(self, name: str, datasets_root: Path) -> None:
        try:
            self._dataset = BENCHMARKS.read(name).open(datasets_root)
            self._place = {key: i for i, key in enumerate(self._dataset.keys)}
        except UpsrError:
            self._dataset, self._place = None, {}

    def read(self, row: Row, size: tuple[int, int]) -> tuple[Pixels | None, Pixels | None]:
        """The LR image with each pixel enlarged to a block, and the ground truth.

        ``None`` for one that there is not, or if the row was measured on other files.

        Args:
            size: (H, W) of both.
        """
        index = self._place.get(row.image)
        if index is None or row.content not in ("", content_of(self._dataset.sides(), index)):
            return None, None
        item = self._dataset[index]
        lr = F.interpolate(item["lq"][None], size=size, mode="nearest")[0]
        gt = item["gt"][:, : size[0], : size[1]] if "gt" in item else None
        return to_uint8(lr.expand(3, -1, -1)), None if gt is None else to_uint8(gt.expand(3, -1, -1))


def differing_places(images: Sequence[Pixels], side: int, count: int) -> list[tuple[int, int]]:
    """Tops and lefts of squares that do not overlap, those first in which images of one size differ most.

    One image alone differs from its blurred self.
    """
    height, width = images[0].shape[:2]
    same = [to_tensor(image).numpy().mean(axis=0) for image in images if image.shape[:2] == (height, width)]
    if len(same) == 1:
        same.append(uniform_filter(same[0], 9))
    side = min(side, height, width)
    spread = uniform_filter(np.std(same, axis=0), side, mode="constant")
    half = side // 2
    valid = np.full_like(spread, -1)
    valid[half : height - side + half + 1, half : width - side + half + 1] = spread[
        half : height - side + half + 1, half : width - side + half + 1
    ]
    places = []
    for _ in range(count):
        row, column = np.unravel_index(int(np.argmax(valid)), valid.shape)
        if valid[row, column] < 0:
            break
        places.append((int(row) - half, int(column) - half))
        valid[max(0, row - side + 1) : row + side, max(0, column - side + 1) : column + side] = -1
    return places
