"""Teacher caches: LR crops, their ground truth and a teacher's estimate, as WebDataset shards.

A crop is a function of the recipe's seed and the crop's number, and a shard of its crops alone. So the bytes do not depend on
the number of processes, a killed run goes on at the first shard that is not there, and a recipe with more crops extends a
cache.
"""

from __future__ import annotations

import multiprocessing
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from upsr.atomic import atomic_write, sweep, writable_folder
from upsr.config.load import read_with_base, refuse
from upsr.config.problems import problems_of
from upsr.config.schema_data import DegradationOptions
from upsr.config.schema_teach import PhotoSource, TeachOptions
from upsr.data.backends import names_in
from upsr.data.datasets import ImageFolder
from upsr.data.degradation import RealESRGANDegradation
from upsr.data.image_io import png_bytes, to_tensor, to_uint8
from upsr.data.kernels import draw_kernels
from upsr.data.sampler import GlobalBatchSampler
from upsr.data.shards import add_file, index_shards, keep_recipe
from upsr.data.taught import KINDS
from upsr.errors import UpsrError
from upsr.evaluation.entries import Entry, describe, make_ready, origin
from upsr.provenance import digest_of
from upsr.rng import numpy_generator

_CPU = torch.device("cpu")


def read_recipe(path: str | Path) -> TeachOptions:
    """The recipe in a YAML file; it may name a ``base`` file that it changes.

    Raises:
        UpsrError: the file is missing or has mistakes; all are named.
    """
    data = read_with_base(path)
    refuse(str(path), list(problems_of(TeachOptions, data)))
    return TeachOptions.model_validate(data)


def teach(recipe: TeachOptions, folder: Path, workers: int) -> int:
    """Make the shards that are not there yet, and the index of all; returns the number of crops in it.

    A cache that has more crops than the recipe asks for keeps them.

    Args:
        folder: holds ``crops-NNNNNN.tar``, ``index.json`` and ``recipe.json``.
        workers: processes, of one thread each.

    Raises:
        UpsrError: photos or teacher are not here, the folder holds the crops of another recipe, or it cannot be written.
    """
    crops = Crops(recipe)  # before the start, so that a mistake costs nothing
    teacher = _ready_teacher(recipe)
    writable_folder(folder)
    sweep(folder)
    _keep_recipe(recipe, folder, crops, teacher)
    missing = [shard for shard in range(recipe.shards) if not _shard_path(folder, shard).is_file()]
    context = multiprocessing.get_context("spawn")  # a fork would take over torch's threads
    with (
        tqdm(
            total=recipe.shards, initial=recipe.shards - len(missing), desc="teaching", unit="shard", disable=None
        ) as bar,
        ProcessPoolExecutor(
            min(workers, max(1, len(missing))), context, initializer=_set_up, initargs=(recipe, folder, os.getpid())
        ) as pool,
    ):
        futures = [pool.submit(_make_shard, shard) for shard in missing]
        for future in futures:
            future.add_done_callback(lambda done: bar.update(not done.cancelled()))
        _raise_first(futures)
    return index_shards(folder) // len(KINDS)


class Crops:
    """The crops of a recipe, by number."""

    def __init__(self, recipe: TeachOptions) -> None:
        self.recipe = recipe
        if recipe.gt_size % recipe.scale:
            raise UpsrError(f"gt_size: {recipe.gt_size} is no multiple of the scale, {recipe.scale}")
        self.photos = [(source, folder, key) for source in recipe.photos for folder, key in _photos_of(source)]
        self._degradation = RealESRGANDegradation(recipe.degradation, recipe.scale)

    def pairs(self, start: int, stop: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """(gt, lq), each (H, W, 3) uint8, of the crops from ``start`` on, ``stop`` excluded.

        Raises:
            UpsrError: a photo cannot be decoded.
        """
        seed = self.recipe.manual_seed
        stream = GlobalBatchSampler(len(self.photos), seed=seed, batch_size=1, start=start, stop=stop)
        for number, (sample,) in zip(range(start, stop), stream, strict=True):
            gt = self._degradation.ground_truth(
                to_tensor(self._crop(sample.image, numpy_generator(seed, "teach", number)))[None]
            )
            lq = self._degradation(
                gt,
                draw_kernels(self.recipe.degradation, seed, "teach", number)[None],
                slots=[0],
                keys=(seed, "teach", number),
            )
            yield to_uint8(gt[0]), to_uint8(lq[0])

    def _crop(self, index: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        source, folder, key = self.photos[index]
        side = self.recipe.gt_size
        image = folder.image(key)
        height, width = image.shape[:2]
        factor = min(source.reduce, min(height, width) / side)
        if factor > 1:
            size = (max(side, round(width / factor)), max(side, round(height / factor)))
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        elif factor < 1:
            raise UpsrError(f"{folder.root}/{key}: {width}x{height} is smaller than a crop of {side}; leave it out")
        top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
        return image[top : top + side, left : left + side]


class TaughtImages:
    """The crops of a recipe with its teacher's estimates, by number.

    Raises:
        UpsrError: photos or teacher are not here.
    """

    def __init__(self, recipe: TeachOptions) -> None:
        self.recipe, self.crops = recipe, Crops(recipe)
        self._teacher = _ready_teacher(recipe)

    def images(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, NDArray[np.uint8]]]]:
        """Number of each crop from ``start`` on, ``stop`` excluded, and its images by kind, each (H, W, 3) uint8."""
        restorer = self._teacher.restorer(self.recipe.manual_seed, "", [])
        autocast = torch.autocast("cpu", torch.bfloat16) if self.recipe.amp == "bf16" else nullcontext()
        for number, (gt, lq) in zip(range(start, stop), self.crops.pairs(start, stop), strict=True):
            x = to_tensor(lq)[None].contiguous(memory_format=torch.channels_last)  # a third faster in bfloat16
            with torch.inference_mode(), autocast:
                estimate = restorer(x, [f"{number:08d}"])[0]
            yield number, dict(zip(KINDS, (lq, gt, to_uint8(estimate)), strict=True))


def _photos_of(source: PhotoSource) -> Iterator[tuple[ImageFolder, str]]:
    folder = ImageFolder(source.folder, 3, source.only)
    left_out = names_in(source.leave_out) if source.leave_out else set()
    if unknown := sorted(left_out - set(folder.keys)):
        raise UpsrError(f"{source.leave_out}: no photo '{unknown[0]}' under {source.folder}")
    return ((folder, key) for key in folder.keys if key not in left_out)


def _ready_teacher(recipe: TeachOptions) -> Entry:
    teacher = make_ready(describe(recipe.teacher), _CPU, None)
    if teacher.scale not in (None, recipe.scale):
        raise UpsrError(f"teacher: {recipe.teacher} is x{teacher.scale}, and the recipe's scale is {recipe.scale}")
    return teacher


def _keep_recipe(recipe: TeachOptions, folder: Path, crops: Crops, teacher: Entry) -> None:
    """Write what the crops come from, or refuse a folder whose crops come from elsewhere."""
    made_by = {
        "recipe": recipe.model_dump(mode="json", exclude={"crops"}),
        "photos": digest_of([key for _, _, key in crops.photos]),
        "teacher": origin(describe(recipe.teacher), teacher),
    }
    keep_recipe(folder, made_by, {"recipe": {"degradation": DegradationOptions().model_dump(mode="json")}})


def _raise_first(futures: list[Future[None]]) -> None:
    """Wait for all; the first failure cancels what has not begun and is raised."""
    done, pending = wait(futures, return_when=FIRST_EXCEPTION)
    for future in pending:
        future.cancel()
    for future in done:
        if (error := future.exception()) is not None:
            if isinstance(error, BrokenProcessPool):
                raise UpsrError("a process that made crops was killed (memory?); run the command again") from None
            raise error


_made: dict[str, Any] = {}


def _set_up(recipe: TeachOptions, folder: Path, parent: int) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _made.update(recipe=recipe, folder=folder, images=TaughtImages(recipe))


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone: a killed pool would leave its workers waiting for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _make_shard(shard: int) -> None:
    recipe = _made["recipe"]
    start = shard * recipe.crops_per_shard
    stop = start + recipe.crops_per_shard
    with atomic_write(_shard_path(_made["folder"], shard)) as temporary, tarfile.open(temporary, "w") as tar:
        for number, images in _made["images"].images(start, stop):
            for kind, image in images.items():
                add_file(tar, f"{number:08d}.{kind}.png", png_bytes(image))


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"crops-{shard:06d}.tar"
