"""Makes a benchmark's folder from what a user can download."""

from __future__ import annotations

import contextlib
import fnmatch
import random
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from upsr.atomic import atomic_write, folder_for_results
from upsr.compat import BENCHMARK_PREPARER_REGISTRY as PREPARERS
from upsr.config.components import build, component_problems
from upsr.config.load import refuse
from upsr.data.backends import list_keys
from upsr.data.benchmark_degradation import degrade
from upsr.data.image_io import decode_image, write_png
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import Benchmark

_DRAW_SEED = 10000
"""Seed of ResShift's choice of 3000 validation photos."""


class Preparer(Protocol):
    """Fills a benchmark's folder."""

    def __call__(self, source: Path, root: Path, benchmark: Benchmark, seed: int) -> int:
        """Make the files under ``root`` from those under ``source``; returns how many images or pairs.

        Raises:
            UpsrError: the source does not hold what is needed.
        """
        ...


def prepare(benchmark: Benchmark, source: Path, datasets: Path, *, seed: int) -> int:
    """Fill the benchmark's folder from a folder or an archive (zip, tar); returns the number of images or pairs.

    Files that are there already are made again and end up the same.

    Raises:
        UpsrError: there is no source, or it does not hold what is needed.
    """
    if benchmark.prepare is None:
        raise UpsrError(f"{benchmark.name}: its description has no way to prepare it; put the files in place by hand")
    refuse(benchmark.name, list(component_problems(PREPARERS, benchmark.prepare, "prepare")))
    preparer: Preparer = build(PREPARERS, benchmark.prepare)
    # An empty folder that is left would count as prepared.
    with folder_for_results(benchmark.root(datasets)) as root, _unpacked(source, datasets) as folder:
        return preparer(folder, root, benchmark, seed)


@PREPARERS.register()
class CopyImages:
    """Copies single images, from any depth, into one folder.

    Args:
        to: folder under the benchmark's.
        leave_out: patterns of file names that are not wanted.
    """

    def __init__(self, to: str, leave_out: list[str] | None = None) -> None:
        self.to = to
        self.leave_out = leave_out or []

    def __call__(self, source: Path, root: Path, benchmark: Benchmark, seed: int) -> int:
        """See :class:`Preparer`."""
        keys = [
            key
            for key in list_keys(source)
            if not any(fnmatch.fnmatch(Path(key).name, pattern) for pattern in self.leave_out)
        ]
        _refuse_repetition([Path(key).stem for key in keys], source)
        for key in tqdm(keys, desc=benchmark.name, unit="image", disable=None):
            _copy(source / key, root / self.to / Path(key).name)
        return len(keys)


@PREPARERS.register()
class CentreCrops:
    """Writes the centre of every image as PNG; an image that is smaller stays whole.

    Args:
        size: side in pixels.
        to: folder under the benchmark's.
    """

    def __init__(self, size: int, to: str = ".") -> None:
        self.size = size
        self.to = to

    def __call__(self, source: Path, root: Path, benchmark: Benchmark, seed: int) -> int:
        """See :class:`Preparer`."""
        keys = list_keys(source)
        _refuse_repetition([Path(key).stem for key in keys], source)
        for key in tqdm(keys, desc=benchmark.name, unit="image", disable=None):
            pixels = decode_image((source / key).read_bytes(), 3, str(source / key))
            rows, columns = (slice(max(0, (side - self.size) // 2), None) for side in pixels.shape[:2])
            write_png(root / self.to / f"{Path(key).stem}.png", pixels[rows, columns][: self.size, : self.size])
        return len(keys)


@PREPARERS.register()
class CopyPairs:
    """Copies HR and LR images to two folders, under equal names.

    Args:
        gt, lq: patterns of the paths of HR and LR images under the source; ``**/`` is any folders or none. Of several the
            first that finds images.
        gt_suffix, lq_suffix: what the names have after the part that is equal.
        to_gt, to_lq: folders under the benchmark's.
    """

    def __init__(
        self,
        gt: str | list[str],
        lq: str | list[str],
        gt_suffix: str = "",
        lq_suffix: str = "",
        to_gt: str = "gt",
        to_lq: str = "lq",
    ) -> None:
        self.sides = {"HR": (gt, gt_suffix), "LR": (lq, lq_suffix)}
        self.to = {"HR": to_gt, "LR": to_lq}

    def __call__(self, source: Path, root: Path, benchmark: Benchmark, seed: int) -> int:
        """See :class:`Preparer`."""
        found = {kind: _found(source, *side, kind) for kind, side in self.sides.items()}
        alone = sorted(found["HR"].keys() ^ found["LR"].keys())
        if alone:
            missing = "LR" if alone[0] in found["HR"] else "HR"
            raise UpsrError(
                f"{source}: {len(alone)} image(s) have no partner; there is no {missing} image for '{alone[0]}'"
            )
        for name in tqdm(sorted(found["HR"]), desc=benchmark.name, unit="pair", disable=None):
            self._write(root, name, found["HR"][name], found["LR"][name], benchmark.scale)
        return len(found["HR"])

    def _write(self, root: Path, name: str, gt: Path, lq: Path, scale: int) -> None:
        for path, to in ((gt, self.to["HR"]), (lq, self.to["LR"])):
            _copy(path, root / to / f"{name}{path.suffix.lower()}")


@PREPARERS.register()
class CentreCropPairs(CopyPairs):
    """Writes the centres of LR images, and the same parts of their HR images, as PNG; pairs of a smaller size stay whole.

    Args:
        size: side of an LR crop in pixels.
        gt, lq: as those of :class:`CopyPairs`.
    """

    def __init__(self, size: int, gt: str | list[str], lq: str | list[str]) -> None:
        super().__init__(gt, lq)
        self.size = size

    def _write(self, root: Path, name: str, gt: Path, lq: Path, scale: int) -> None:
        images = {kind: decode_image(path.read_bytes(), 3, str(path)) for kind, path in (("LR", lq), ("HR", gt))}
        sides = images["LR"].shape[:2]
        spans = [(max(0, (side - self.size) // 2), min(side, self.size)) for side in sides]
        for kind, factor in (("LR", 1), ("HR", scale)):
            rows, columns = (slice(factor * start, factor * (start + length)) for start, length in spans)
            write_png(root / self.to[kind] / f"{name}.png", images[kind][rows, columns])


@PREPARERS.register()
class ImageNetTest:
    """Pairs from the ILSVRC validation photos by ResShift's recipe, or from a folder that has ``gt/`` and ``lq/`` already.

    The photos are drawn with ResShift's seed and reduced to 256 on the smaller side (Pillow's bicubic), centre-cropped, and
    degraded with draws that depend on the seed and the name of the photo alone.

    Args:
        images: how many are drawn; all of the source if it has fewer.
        size: side of an HR image.
    """

    def __init__(self, images: int = 3000, size: int = 256) -> None:
        self.images = images
        self.size = size

    def __call__(self, source: Path, root: Path, benchmark: Benchmark, seed: int) -> int:
        """See :class:`Preparer`."""
        if (ready := _holding_pairs(source)) is not None:
            return CopyPairs("gt/*", "lq/*")(ready, root, benchmark, seed)
        keys = list_keys(source)
        _refuse_repetition([Path(key).stem for key in keys], source)
        drawn = drawn_photos(keys, self.images)
        for key in tqdm(drawn, desc=benchmark.name, unit="pair", disable=None):
            gt = self._crop(decode_image((source / key).read_bytes(), 3, str(source / key)))
            name = f"{Path(key).stem}.png"
            write_png(root / "gt" / name, gt)
            write_png(root / "lq" / name, degrade(gt, benchmark.scale, seed, Path(key).stem))
        return len(drawn)

    def _crop(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        factor = self.size / min(height, width)
        height, width = (max(self.size, round(side * factor)) for side in (height, width))
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))


def drawn_photos(keys: Sequence[str], count: int) -> list[str]:
    """The photos that ResShift's script draws from the validation set: seed 10000, one shuffle, then a sample."""
    rng = random.Random(_DRAW_SEED)
    rng.shuffle(list(keys))
    ordered = sorted(keys)
    return ordered if len(ordered) <= count else sorted(rng.sample(ordered, count))


@contextlib.contextmanager
def _unpacked(source: Path, beside: Path) -> Iterator[Path]:
    """The source folder; an archive is unpacked for the time of the block."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise UpsrError(f"{source}: no such folder or archive")
    with tempfile.TemporaryDirectory(dir=beside, prefix=".unpacked-") as folder:
        try:
            if zipfile.is_zipfile(source):
                with zipfile.ZipFile(source) as archive:
                    archive.extractall(folder)  # zipfile keeps members inside the folder
            else:
                with tarfile.open(source) as archive:
                    archive.extractall(folder, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
            raise UpsrError(f"{source}: cannot be unpacked ({error}); a folder, a zip or a tar is needed") from None
        yield Path(folder)


def _found(source: Path, patterns: str | list[str], suffix: str, kind: str) -> dict[str, Path]:
    """Images that match the first pattern with any, by the part of the name that both of a pair have."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    keys = [key for key in list_keys(source) if Path(key).stem.endswith(suffix)]
    matching = ([source / key for key in keys if _matches(key, pattern)] for pattern in patterns)
    paths = next(filter(None, matching), [])
    if not paths:
        wanted = " or ".join(f"'{pattern}'" for pattern in patterns)
        raise UpsrError(f"{source}: no {kind} images {wanted} with names that end in '{suffix}'")
    names = [path.stem.removesuffix(suffix) for path in paths]
    _refuse_repetition(names, source)
    return dict(zip(names, paths, strict=True))


def _matches(key: str, pattern: str) -> bool:
    return fnmatch.fnmatch(f"/{key}", f"*/{pattern.removeprefix('**/')}")


def _refuse_repetition(names: Sequence[str], source: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UpsrError(f"{source}: two images are called '{name}'; they would overwrite each other")
        seen.add(name)


def _holding_pairs(source: Path) -> Path | None:
    """The folder with ``gt`` and ``lq``, at the source or in the one folder inside it."""
    inside = [path for path in source.iterdir() if path.is_dir()]
    candidates = [source, *inside[:1]]
    return next((path for path in candidates if (path / "gt").is_dir() and (path / "lq").is_dir()), None)


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
