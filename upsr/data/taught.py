"""Datasets over a teacher cache (``upsr data teach``): stored LR crops, their ground truth, a teacher's estimate."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from upsr.compat import DATASET_REGISTRY
from upsr.config.schema_data import DegradationOptions
from upsr.data.datasets import ImageDataset, ImageFolder, Item, turned
from upsr.data.image_io import to_tensor
from upsr.data.sampler import SampleId
from upsr.errors import UpsrError
from upsr.rng import numpy_generator

KINDS = ("lq", "gt", "teacher")

Share = Annotated[float, Field(ge=0, le=1)]


class TaughtCrops:
    """Crops of a cache by number, each kind (H, W, 3) uint8."""

    def __init__(self, index: str) -> None:
        self._images = ImageFolder(index, 3)
        endings = tuple(f".{kind}.png" for kind in KINDS)
        self.keys = [key.removesuffix(endings[0]) for key in self._images.keys if key.endswith(endings[0])]
        if len(self._images.keys) != len(KINDS) * len(self.keys):
            raise UpsrError(f"{index}: not the index of a teacher cache; `upsr data teach` makes one")

    @property
    def size(self) -> tuple[int, int]:
        """Side of the ground truth, and how often it is that of the LR crop."""
        side = self.image(0, "gt").shape[0]
        return side, side // self.image(0, "lq").shape[0]

    def image(self, number: int, kind: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One image of a crop."""
        return self._images.image(f"{self.keys[number]}.{kind}.png")


@DATASET_REGISTRY.register()
class TaughtDataset(ImageDataset):
    """Stored pairs for training, whose target is the ground truth or a teacher's estimate.

    A sample's target is drawn in every epoch. The expected loss is the mixture
    (1 - teacher_share) loss(., gt) + teacher_share loss(., teacher), at the cost of one of them.

    Items: ``lq`` and ``gt`` (the target), (3, h, w) and (3, H, W) uint8, ``key``, ``unreadable`` (always empty), and with
    ``with_photo`` ``photo``, the ground truth whatever the target is.

    Args:
        index: ``index.json`` of a cache, or a list of them, of one scale and one size of crop: one epoch is all their crops.
        gt_size: side of the target crop, a multiple of the cache's scale; at most the cache's.
        teacher_share: share of samples whose target is the teacher's estimate; a list has one for each cache.
        with_photo: a discriminator learns from the ground truth where the target is the teacher's estimate.
        use_hflip, use_vflip, use_rot: flip and transpose, each for half of the samples.
    """

    channels = 3
    scale: int

    def __init__(
        self,
        index: str | Annotated[list[str], Field(min_length=1)],
        gt_size: Annotated[int, Field(ge=1)] = 256,
        teacher_share: Share | list[Share] = 0.5,
        with_photo: bool = False,
        use_hflip: bool = True,
        use_vflip: bool = True,
        use_rot: bool = True,
    ) -> None:
        indices = [index] if isinstance(index, str) else index
        self.caches = [TaughtCrops(each) for each in indices]
        self.shares = teacher_share if isinstance(teacher_share, list) else [teacher_share] * len(indices)
        if len(self.shares) != len(indices):
            raise UpsrError(
                f"datasets.train.teacher_share: {len(self.shares)} shares for {len(indices)} caches; give one, or one each"
            )
        self.keys = [key for cache in self.caches for key in cache.keys]
        self._ends = list(accumulate(len(cache.keys) for cache in self.caches))
        sizes = [cache.size for cache in self.caches]
        stored, self.scale = sizes[0]
        for each, (side, scale) in zip(indices, sizes, strict=True):
            if (side, scale) != sizes[0]:
                raise UpsrError(
                    f"datasets.train.index: the crops of {each} are {side}, x{scale}; those of {indices[0]} "
                    f"{stored}, x{self.scale}. Caches that are trained on together have one size and one scale"
                )
        if not 0 < gt_size <= stored or gt_size % self.scale:
            raise UpsrError(
                f"datasets.train.gt_size: {gt_size}; the crops of {indices[0]} are {stored}, and it is a multiple of "
                f"{self.scale}"
            )
        self.gt_size, self.with_photo = gt_size, with_photo
        self._turns = np.array([use_hflip, use_vflip, use_rot])
        self._seed = 0

    def bind(self, seed: int, degradation: DegradationOptions) -> None:
        """Tie the draws to a run's seed.

        Raises:
            UpsrError: the run has a degradation, and stored pairs are degraded already.
        """
        if degradation != DegradationOptions():
            raise UpsrError("degradation: TaughtDataset's pairs are degraded already; remove the section")
        self._seed = seed

    def __getitem__(self, sample: SampleId) -> Item:
        rng = numpy_generator(self._seed, "sample", *sample)
        turns = self._turns & (rng.random(3) < 0.5)
        which = bisect_right(self._ends, sample.image)
        cache, number = self.caches[which], sample.image - (self._ends[which - 1] if which else 0)
        target = "teacher" if rng.random() < self.shares[which] else "gt"
        side = self.gt_size // self.scale
        kinds = {"lq": "lq", "gt": target, **({"photo": "gt"} if self.with_photo else {})}
        found = {name: cache.image(number, kind) for name, kind in kinds.items()}
        top, left = (int(rng.integers(length - side + 1)) for length in found["lq"].shape[:2])
        crops = {}
        for name, image in found.items():
            factor = 1 if name == "lq" else self.scale
            rows, columns = (slice(factor * start, factor * (start + side)) for start in (top, left))
            crops[name] = torch.from_numpy(turned(image[rows, columns], *turns).transpose(2, 0, 1).copy())
        return {**crops, "key": self.keys[sample.image], "unreadable": []}


@DATASET_REGISTRY.register()
class TaughtPairsDataset(ImageDataset):
    """Stored pairs for validation. Items: ``lq``, ``gt`` (3, H, W) in [0, 1], ``key``.

    Args:
        index: ``index.json`` of a cache.
    """

    channels = 3

    def __init__(self, index: str) -> None:
        self.crops = TaughtCrops(index)
        self.keys, (_, self.scale) = self.crops.keys, self.crops.size

    def __getitem__(self, index: int) -> Item:
        lq, gt = (to_tensor(self.crops.image(index, kind)) for kind in ("lq", "gt"))
        return {"lq": lq, "gt": gt, "key": self.keys[index]}
