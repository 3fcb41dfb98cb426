"""Datasets in DATASET_REGISTRY. Their arguments are the keys of the option file."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch.utils.data import Dataset

from upsr.compat import DATASET_REGISTRY
from upsr.config.components import build
from upsr.config.schema import Component
from upsr.config.schema_data import DegradationOptions
from upsr.data.backends import list_keys, open_backend
from upsr.data.image_io import (
    UnreadableImageError,
    decode_image,
    decode_region,
    image_size,
    to_tensor,
    to_uint8,
)
from upsr.data.kernels import draw_kernels
from upsr.data.packed_strings import PackedStrings
from upsr.data.sampler import SampleId
from upsr.errors import UpsrError
from upsr.rng import numpy_generator

_ATTEMPTS = 10

_FEW_IMAGES = 64
_KEPT_BYTES = 64 << 20
"""Sets of few images keep them decoded, up to so many bytes in each process that reads."""

Item = dict[str, Any]
Sides = dict[str, tuple["ImageFolder", Sequence[str]]]
"""Folders of the "gt" and the "lq" images, as far as there are such files, with their keys in the order of the items."""
Choose = Callable[[int, int], tuple[int, int]]


class ImageFolder:
    """Decoded images of one root, by key."""

    def __init__(self, root: str, channels: int, meta_info: str | None = None) -> None:
        self.root = root
        self.channels = channels
        self._backend = open_backend(root)
        self.keys = PackedStrings(list_keys(root, meta_info, self._backend))
        self._kept: dict[str, tuple[bytes, NDArray[np.uint8]]] = {}
        self._left = _KEPT_BYTES if len(self.keys) <= _FEW_IMAGES else 0

    def image(self, key: str) -> NDArray[np.uint8]:
        """(H, W, C) uint8."""
        return decode_image(self._backend.read(key), self.channels, f"{self.root}/{key}")

    def digest(self, key: str) -> str:
        """sha256 of the encoded image."""
        return hashlib.sha256(self._backend.read(key)).hexdigest()

    def size(self, key: str) -> tuple[int, int]:
        """(height, width), from the header."""
        return image_size(self._backend.read(key), f"{self.root}/{key}")

    def crop(self, key: str, side: int, choose: Choose) -> NDArray[np.uint8]:
        """(side, side, C) uint8 of an image.

        Args:
            choose: from height and width, each at least ``side``, to the top and left of the crop. Smaller images are
                extended by reflection at the bottom and the right first.
        """
        data, name = self._backend.read(key), f"{self.root}/{key}"
        height, width = image_size(data, name)
        top, left = choose(max(height, side), max(width, side))
        if min(height, width) >= side:
            whole = self._decoded_once(key, data)
            if whole is not None:
                return whole[top : top + side, left : left + side]
            return decode_region(data, self.channels, name, top, left, side)
        margins = [(0, max(0, side - height)), (0, max(0, side - width)), (0, 0)]
        image = np.pad(decode_image(data, self.channels, name), margins, mode="reflect")
        return image[top : top + side, left : left + side]

    def _decoded_once(self, key: str, data: bytes) -> NDArray[np.uint8] | None:
        """The image of a small set, decoded again only if its file has changed; ``None`` of others and of damaged files."""
        former, image = self._kept.get(key, (b"", None))
        if image is not None and former == data:
            return image
        height, width = image_size(data, key)
        size = len(data) + height * width * self.channels
        if size > self._left:
            return None
        with contextlib.suppress(UnreadableImageError):  # a part of it may be good
            image = decode_image(data, self.channels, key)
            self._kept[key] = data, image
            self._left -= size
            return image
        return None

    def names(self) -> list[str]:
        """Names of the images, see :meth:`upsr.data.backends.ImageBackend.name`; keys where names are not distinct."""
        names = {key: self._backend.name(key) for key in self.keys}
        while ambiguous := {name for name, times in Counter(names.values()).items() if times > 1}:
            names = {key: key if name in ambiguous else name for key, name in names.items()}
        return [names[key] for key in self.keys]


def turned(image: NDArray[np.uint8], hflip: bool, vflip: bool, transpose: bool) -> NDArray[np.uint8]:
    """A view of an (H, W, C) image, flipped, then transposed."""
    if hflip:
        image = image[:, ::-1]
    if vflip:
        image = image[::-1]
    return image.transpose(1, 0, 2) if transpose else image


def partner_name(key: str, template: str) -> str:
    """Name of the partner of ``key``, in the folder of the same name; ``{}`` in the template is the key's stem.

    Raises:
        UpsrError: the template gives every image the same partner.
    """
    if "{}" not in template:
        raise UpsrError(
            f"filename_tmpl: '{template}' has no {{}}, which stands for an image's name; for example '{{}}x4'"
        )
    folder, _, stem = key.rpartition("/")
    return "/".join(filter(None, [folder, template.replace("{}", stem)]))


class ImageDataset(Dataset[Item]):
    """Base class of datasets. Items of a validation set: ``lq`` (C, h, w) in [0, 1], ``gt`` where there is one, ``key``.

    Attributes:
        keys: names of the images, in the order of the items.
        channels: of the images, 1 or 3.
        scale: of stored pairs; ``None`` where it is not known before they are read.
    """

    keys: Sequence[str]
    channels: int
    scale: int | None = None

    def sides(self) -> Sides:
        """The files of the images; empty for a set without files."""
        return {}

    def __len__(self) -> int:
        return len(self.keys)


def build_dataset(component: Component) -> Any:
    """A registered dataset, or a user's own; one without ``scale`` or ``sides`` gets the defaults of :class:`ImageDataset`."""
    dataset = build(DATASET_REGISTRY, component)
    for name, usual in (("scale", None), ("sides", dict)):
        if not hasattr(dataset, name):
            setattr(dataset, name, usual)
    return dataset


@DATASET_REGISTRY.register()
class RealESRGANDataset(ImageDataset):
    """HR crops and blur kernels; the degradation makes LR images of them on the training device.

    Items: ``gt`` (C, gt_size, gt_size) uint8, ``kernels`` (:func:`upsr.data.kernels.draw_kernels`), ``key``, and
    ``unreadable``: files that could not be decoded and were replaced by others.

    Args:
        dataroot_gt: folder, lmdb or index of shards (`upsr data shards`) of HR images.
        meta_info: text file that lists the images to use, one a line; by default all, at any depth.
        gt_size: side of a crop. Smaller images are extended by reflection.
        channels: 3 for RGB, 1 for grey.
        use_hflip, use_vflip, use_rot: flip and transpose, each for half of the samples.
    """

    def __init__(
        self,
        dataroot_gt: str,
        meta_info: str | None = None,
        gt_size: Annotated[int, Field(ge=1)] = 256,
        channels: Literal[1, 3] = 3,
        use_hflip: bool = True,
        use_vflip: bool = True,
        use_rot: bool = True,
    ) -> None:
        self.folder = ImageFolder(dataroot_gt, channels, meta_info)
        self.keys = self.folder.keys
        self.channels = channels
        self.gt_size = gt_size
        self._turns = np.array([use_hflip, use_vflip, use_rot])
        self._seed = 0
        self._degradation = DegradationOptions()

    def bind(self, seed: int, degradation: DegradationOptions) -> None:
        """Tie the draws to a run's seed and the kernels to its degradation."""
        self._seed, self._degradation = seed, degradation

    def __getitem__(self, sample: SampleId) -> Item:
        rng = numpy_generator(self._seed, "sample", *sample)
        crop, key, unreadable = self._readable(sample.image, rng)
        return {
            "gt": torch.from_numpy(crop.transpose(2, 0, 1).copy()),
            "kernels": draw_kernels(self._degradation, self._seed, "sample", *sample),
            "key": key,
            "unreadable": unreadable,
        }

    def _readable(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str, list[str]]:
        """A crop of the image at ``index``, its key, and the files before it that could not be decoded."""
        unreadable: list[str] = []
        for _ in range(_ATTEMPTS):
            key = self.keys[index]
            try:
                return self._augmented_crop(key, rng), key, unreadable
            except UnreadableImageError as error:
                unreadable.append(str(error))
                index = int(rng.integers(len(self)))
        raise UpsrError(
            f"{self.folder.root}: {_ATTEMPTS} images in a row could not be read, the last: {unreadable[-1]}; check the files"
        )

    def _augmented_crop(self, key: str, rng: np.random.Generator) -> NDArray[np.uint8]:
        turns = self._turns & (rng.random(3) < 0.5)
        crop = self.folder.crop(
            key, self.gt_size, lambda *sides: tuple(int(rng.integers(side - self.gt_size + 1)) for side in sides)
        )
        return turned(crop, *turns)


@DATASET_REGISTRY.register()
class PairedFolderDataset(ImageDataset):
    """Pairs of LR and HR images, matched by name. Items: ``lq``, ``gt`` (C, H, W) in [0, 1], ``key``.

    Args:
        dataroot_gt, dataroot_lq: folders or lmdbs.
        filename_tmpl: LR name for the HR name ``{}``, both without suffix: ``"{}x4"``, ``"{}_LR4"``.
        gt_suffix: ending of HR names that the template does not see, such as ``_HR`` in RealSR.
        meta_info: lists the HR images to use.
        channels: 3 for RGB, 1 for grey.
    """

    def __init__(
        self,
        dataroot_gt: str,
        dataroot_lq: str,
        filename_tmpl: str = "{}",
        gt_suffix: str = "",
        meta_info: str | None = None,
        channels: Literal[1, 3] = 3,
    ) -> None:
        self.channels = channels
        self.gt = ImageFolder(dataroot_gt, channels, meta_info)
        self.lq = ImageFolder(dataroot_lq, channels)
        self.keys = self.gt.names()
        partners = dict(zip(self.lq.names(), self.lq.keys, strict=True))
        self._lq_keys = []
        for key in self.keys:
            name = partner_name(key.removesuffix(gt_suffix), filename_tmpl)
            if name not in partners:
                raise UpsrError(
                    f"{dataroot_lq}: no '{name}' for '{key}' of {dataroot_gt}; set filename_tmpl where names differ"
                )
            self._lq_keys.append(partners[name])

    def sides(self) -> Sides:
        """See :class:`ImageDataset`."""
        return {"gt": (self.gt, self.gt.keys), "lq": (self.lq, self._lq_keys)}

    def __getitem__(self, index: int) -> Item:
        lq, gt = self.lq.image(self._lq_keys[index]), self.gt.image(self.gt.keys[index])
        return {"lq": to_tensor(lq), "gt": to_tensor(gt), "key": self.keys[index]}


@DATASET_REGISTRY.register()
class FolderDataset(ImageDataset):
    """LR images without ground truth. Items: ``lq`` (C, H, W) in [0, 1], ``key``.

    Args:
        dataroot_lq: folder or lmdb.
        meta_info: lists the images to use.
        channels: 3 for RGB, 1 for grey.
    """

    def __init__(self, dataroot_lq: str, meta_info: str | None = None, channels: Literal[1, 3] = 3) -> None:
        self.channels = channels
        self.lq = ImageFolder(dataroot_lq, channels, meta_info)
        self.keys = self.lq.names()

    def sides(self) -> Sides:
        """See :class:`ImageDataset`."""
        return {"lq": (self.lq, self.lq.keys)}

    def __getitem__(self, index: int) -> Item:
        return {"lq": to_tensor(self.lq.image(self.lq.keys[index])), "key": self.keys[index]}


@DATASET_REGISTRY.register()
class BicubicFolderDataset(ImageDataset):
    """HR images and their antialiased bicubic reduction, rounded to 8 bit (Set5, Set14, ...).

    Items: ``lq``, ``gt`` (C, H, W) in [0, 1], ``key``. HR images are cropped at the bottom and the right to a multiple of
    ``scale``.

    Args:
        dataroot_gt: folder or lmdb of HR images.
        scale: reduction factor.
        meta_info: lists the images to use.
        channels: 3 for RGB, 1 for grey.
    """

    scale: int

    def __init__(
        self,
        dataroot_gt: str,
        scale: Literal[1, 2, 3, 4, 8] = 4,
        meta_info: str | None = None,
        channels: Literal[1, 3] = 3,
    ) -> None:
        self.channels = channels
        self.gt = ImageFolder(dataroot_gt, channels, meta_info)
        self.scale = scale
        self.keys = self.gt.names()

    def sides(self) -> Sides:
        """See :class:`ImageDataset`."""
        return {"gt": (self.gt, self.gt.keys)}

    def __getitem__(self, index: int) -> Item:
        image = self.gt.image(self.gt.keys[index])
        height, width = (side // self.scale * self.scale for side in image.shape[:2])
        if not height or not width:
            raise UpsrError(f"{self.gt.root}/{self.gt.keys[index]}: smaller than {self.scale} pixels, the set's scale")
        gt = to_tensor(image[:height, :width])
        lq = F.interpolate(gt[None], size=(height // self.scale, width // self.scale), mode="bicubic", antialias=True)[
            0
        ]
        return {"lq": to_tensor(to_uint8(lq)), "gt": gt, "key": self.keys[index]}
