"""A training set of LR and HR images in files."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from upsr.compat import DATASET_REGISTRY
from upsr.config.schema_data import DegradationOptions
from upsr.data.datasets import ImageDataset, Item, PairedFolderDataset, Sides, turned
from upsr.data.image_io import UnreadableImageError
from upsr.data.sampler import SampleId
from upsr.errors import UpsrError
from upsr.rng import numpy_generator

_ATTEMPTS = 10


@DATASET_REGISTRY.register()
class PairedCropsDataset(ImageDataset):
    """Crops of pairs of LR and HR images, matched by name, for training. Nothing is degraded: ``pair_pool.pairs_per_slot`` is 0.

    Items: ``lq`` and ``gt``, (C, h, w) and (C, gt_size, gt_size) uint8, ``key``, and ``unreadable``: files that could not be
    decoded and were replaced by others.

    Args:
        dataroot_gt, dataroot_lq, filename_tmpl, gt_suffix, meta_info, channels: see :class:`PairedFolderDataset`.
        gt_size: side of the HR crop, a multiple of ``scale``.
        scale: HR side over LR side.
        use_hflip, use_vflip, use_rot: flip and transpose, each for half of the samples.

    Raises:
        UpsrError: an image has no partner, or ``gt_size`` is no multiple.
    """

    scale: int

    def __init__(
        self,
        dataroot_gt: str,
        dataroot_lq: str,
        filename_tmpl: str = "{}",
        gt_suffix: str = "",
        meta_info: str | None = None,
        gt_size: Annotated[int, Field(ge=1)] = 256,
        scale: Literal[1, 2, 3, 4, 8] = 4,
        channels: Literal[1, 3] = 3,
        use_hflip: bool = True,
        use_vflip: bool = True,
        use_rot: bool = True,
    ) -> None:
        if gt_size % scale:
            raise UpsrError(f"datasets.train.gt_size: {gt_size} is no multiple of {scale}, the scale of the pairs")
        self.pairs = PairedFolderDataset(dataroot_gt, dataroot_lq, filename_tmpl, gt_suffix, meta_info, channels)
        self.keys, self.channels = self.pairs.keys, channels
        self.gt_size, self.scale = gt_size, scale
        self._turns = np.array([use_hflip, use_vflip, use_rot])
        self._seed = 0

    def sides(self) -> Sides:
        """See :class:`ImageDataset`."""
        return self.pairs.sides()

    def bind(self, seed: int, degradation: DegradationOptions) -> None:
        """Tie the draws to a run's seed.

        Raises:
            UpsrError: the run has a degradation.
        """
        if degradation != DegradationOptions():
            raise UpsrError("degradation: PairedCropsDataset's pairs are taken as they are; remove the section")
        self._seed = seed

    def __getitem__(self, sample: SampleId) -> Item:
        rng = numpy_generator(self._seed, "sample", *sample)
        index, unreadable = sample.image, []
        for _ in range(_ATTEMPTS):
            try:
                lq, gt = self._crops(index, rng)
                break
            except UnreadableImageError as error:
                unreadable.append(str(error))
                index = int(rng.integers(len(self)))
        else:
            raise UpsrError(
                f"{_ATTEMPTS} pairs in a row could not be read, the last: {unreadable[-1]}; check the files"
            )
        tensors = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in (lq, gt)]
        return {"lq": tensors[0], "gt": tensors[1], "key": self.keys[index], "unreadable": unreadable}

    def _crops(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """LR and HR crop of one place. Images smaller than a crop are extended by reflection."""
        turns = self._turns & (rng.random(3) < 0.5)
        share = rng.random(2)
        (lr, lr_keys), (hr, hr_keys) = self.sides()["lq"], self.sides()["gt"]
        sizes = [lr.size(lr_keys[index]), hr.size(hr_keys[index])]
        if any(large // self.scale != small for small, large in zip(*sizes, strict=True)):
            raise UpsrError(
                f"{hr.root}/{hr_keys[index]}: {sizes[1][1]}x{sizes[1][0]}, and its LR image is {sizes[0][1]}x{sizes[0][0]}; "
                f"the sides of pairs differ by {self.scale} times; check scale and pairing"
            )
        side = self.gt_size // self.scale
        top, left = (int(part * (max(length, side) - side + 1)) for part, length in zip(share, sizes[0], strict=True))
        crops = [
            folder.crop(keys[index], factor * side, lambda *_, factor=factor: (factor * top, factor * left))
            for folder, keys, factor in ((lr, lr_keys, 1), (hr, hr_keys, self.scale))
        ]
        return turned(crops[0], *turns), turned(crops[1], *turns)
