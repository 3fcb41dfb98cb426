"""A page on which a person compares results of two methods, blind: a folder of pictures without names, and a key.

The page knows pairs of pictures by number. Only ``key.js`` says whose they are; the page loads it when it shows the scores.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from upsr.atomic import atomic_write, writable_folder
from upsr.config.problems import did_you_mean
from upsr.errors import UpsrError
from upsr.evaluation.results import read_rows, read_summary
from upsr.provenance import file_digest
from upsr.report.pages import write_page
from upsr.report.photos import Originals, Pixels, differing_places, first_rows, picture_of, read_picture
from upsr.rng import derive_seed, numpy_generator
from upsr.text import read_text

FOLDER = "vote"
KEY = "key.js"
KEY_CALL = ("reveal(", ");\n")
"""Text before and after the JSON of a key: a page without a server can load a script and no JSON."""
KEY_FORMAT = 1

_SIDE = 512
_REFERENCES = ("input", "truth")
_DIGITS = 16

Photo = tuple[str, str]
"""Dataset and image."""


@dataclass(frozen=True)
class Pair:
    """A photo and the methods whose results are left and right."""

    photo: Photo
    left: str
    right: str


@dataclass(frozen=True)
class _Shown:
    """Files of a photo's pictures by method and reference, and digests of the pixels of the methods' ones."""

    size: tuple[int, int]
    methods: Mapping[str, str]
    references: Mapping[str, str]
    pixels: Mapping[str, str]

    def files(self, pair: Pair) -> dict[str, Any]:
        """A pair for the page."""
        sides = {"left": self.methods[pair.left], "right": self.methods[pair.right]}
        return {**sides, "size": self.size, **self.references}

    def key(self, pair: Pair) -> dict[str, Any]:
        """A pair for the key."""
        dataset, image = pair.photo
        pixels = [self.pixels[pair.left], self.pixels[pair.right]]
        return {"dataset": dataset, "image": image, "left": pair.left, "right": pair.right, "pixels": pixels}


def write_vote_page(
    folder: Path, pairs: int, seed: int = 0, methods: Sequence[str] | None = None
) -> tuple[Path, int, int]:
    """Write ``vote/`` in the folder of an evaluation; it needs nothing outside itself, and no server.

    Args:
        pairs: how many at most.
        seed: of the order, the sides and the names of the files.
        methods: all of the evaluation unless they are named.

    Returns:
        The page, the number of its pairs, and the number of all that there are.

    Raises:
        UpsrError: the folder is not that of an evaluation, a method is not in it, or no photo has pictures of two methods.
    """
    summary = read_summary(folder)
    for method in methods or ():
        if method not in summary["methods"]:
            raise UpsrError(f"{folder}: no results of '{method}'{did_you_mean(method, summary['methods'])}")
    chosen = [method for method in summary["methods"] if methods is None or method in methods]
    rows = {
        (dataset, image): {
            name: row for name, row in own.items() if name in chosen and picture_of(folder, row).is_file()
        }
        for dataset, images in first_rows(read_rows(folder)).items()
        for image, own in images.items()
    }
    every = draw_pairs(rows, chosen, seed)
    if not every:
        raise UpsrError(
            f"{folder}: no photo has restored images of two methods; evaluate two or more, without --no-images"
        )
    drawn = every[:pairs]
    page = writable_folder(folder / FOLDER)
    shutil.rmtree(page / "pictures", ignore_errors=True)
    (page / "pictures").mkdir()
    originals = {dataset: Originals(dataset, Path(summary["datasets_root"])) for dataset, _ in rows}
    used: dict[Photo, set[str]] = {}
    for pair in drawn:
        used.setdefault(pair.photo, set()).update((pair.left, pair.right))
    shown = {}
    for photo in tqdm(sorted(used), desc="vote", unit="photo", disable=None, leave=False):
        restored = {method: read_picture(picture_of(folder, row)) for method, row in rows[photo].items()}
        height, width = next(iter(restored.values())).shape[:2]
        references = originals[photo[0]].read(next(iter(rows[photo].values())), (height, width))
        shown[photo] = _write_photo(page, seed, photo, restored, used[photo], references)
    key = {"format": KEY_FORMAT, "seed": seed, "methods": chosen, "pairs": [shown[p.photo].key(p) for p in drawn]}
    with atomic_write(page / KEY) as path:
        path.write_text(KEY_CALL[0] + json.dumps(key, indent=1) + KEY_CALL[1], encoding="utf-8")
    data = {"page": file_digest(page / KEY), "pairs": [shown[pair.photo].files(pair) for pair in drawn]}
    return write_page(page / "index.html", "vote", data, pairs=len(drawn)), len(drawn), len(every)


def read_key(page: Path) -> tuple[str, list[dict[str, Any]]]:
    """The digest of a page's key, which is the page's identity, and whose results its pairs are.

    Args:
        page: its folder.

    Raises:
        UpsrError: there is no page, or its key is damaged.
    """
    path = page / KEY
    try:
        text = read_text(path)
        key = json.loads(text.removeprefix(KEY_CALL[0]).removesuffix(KEY_CALL[1]))
        if key["format"] != KEY_FORMAT:
            raise ValueError
        return file_digest(path), list(key["pairs"])
    except FileNotFoundError:
        raise UpsrError(f"{path}: no key of a page of votes; `upsr report FOLDER --vote` makes the page") from None
    except (ValueError, KeyError, TypeError):
        raise UpsrError(f"{path}: not the key of a page of votes; `upsr report FOLDER --vote` makes it again") from None


def draw_pairs(photos: Mapping[Photo, Collection[str]], methods: Sequence[str], seed: int) -> list[Pair]:
    """All pairs of methods on all photos that have both, in a shuffled order.

    The order goes in rounds: in each, every two methods meet once, on photos of their own. So every beginning of it is balanced
    over methods and photos. In each two rounds, two methods have each side once.

    Args:
        photos: methods that have a picture of each.
    """
    draw = numpy_generator(seed, "vote", "pairs")
    names = sorted(photos)
    shuffled = [names[i] for i in draw.permutation(len(names))]
    duels = list(itertools.combinations(methods, 2))
    queues: list[Iterator[Pair]] = []
    for k, (first, second) in enumerate(duels):
        start = k * len(names) // len(duels)
        own = [photo for photo in shuffled[start:] + shuffled[:start] if {first, second} <= set(photos[photo])]
        turned = [side for bit in draw.integers(0, 2, (len(own) + 1) // 2) for side in (bit, 1 - bit)]
        sides = [(second, first) if turn else (first, second) for turn in turned]
        queues.append(Pair(photo, *side) for photo, side in zip(own, sides, strict=False))
    found: list[Pair] = []
    for _ in names:
        for k in draw.permutation(len(duels)):
            found += itertools.islice(queues[k], 1)
    return found


def _write_photo(
    page: Path,
    seed: int,
    photo: Photo,
    restored: Mapping[str, Pixels],
    used: Collection[str],
    originals: Sequence[Pixels | None],
) -> _Shown:
    """Write the pictures of a photo: whole where it is small, else the square in which the methods differ most.

    Args:
        restored: by all methods, which decide on the square.
        used: methods whose pictures are written.
    """
    height, width = next(iter(restored.values())).shape[:2]
    if any(image.shape[:2] != (height, width) for image in restored.values()):
        raise UpsrError(f"results of '{photo[1]}' of {photo[0]} differ in size; run `upsr evaluate` again")
    window = (slice(None), slice(None))
    if max(height, width) > _SIDE:
        side = min(_SIDE, height, width)
        ((top, left),) = differing_places(list(restored.values()), side, 1)
        window = (slice(top, top + side), slice(left, left + side))

    def save(kind: str, name: str, image: Pixels) -> str:
        # The name of a file says nothing, and its pictures are in no order.
        file = f"pictures/{derive_seed(seed, 'vote', *photo, kind, name):016x}.webp"
        Image.fromarray(image).save(page / file, "WEBP", lossless=True, method=2)
        return file

    crops = {name: restored[name][window] for name in sorted(used)}
    height, width = next(iter(crops.values())).shape[:2]
    return _Shown(
        size=(width, height),
        methods={name: save("method", name, crop) for name, crop in crops.items()},
        references={
            name: save("reference", name, image[window])
            for name, image in zip(_REFERENCES, originals, strict=True)
            if image is not None
        },
        pixels={name: hashlib.sha256(crop.tobytes()).hexdigest()[:_DIGITS] for name, crop in crops.items()},
    )
