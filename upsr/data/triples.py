"""Triples of a latent diffusion: a ground truth, its LR image, and the latent that the diffusion samples of that."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from upsr.compat import DATASET_REGISTRY
from upsr.config.schema_data import DegradationOptions
from upsr.data.datasets import ImageDataset, Item
from upsr.data.image_io import decode_image
from upsr.data.sampler import SampleId
from upsr.data.shards import ShardBackend
from upsr.errors import UpsrError

GT, LQ, LATENT = ENDINGS = (".gt.png", ".lq.npy", ".z_0.npy")
"""Of the files of a triple: uint8; float16 (3, h, w) in [0, 1]; float16 (C, h', w'), scaled."""


@DATASET_REGISTRY.register()
class TripleDataset(ImageDataset):
    """Stored triples (``upsr stablesr triples``), for the second stage of StableSR's training.

    Items: ``gt`` (3, H, W) uint8, ``lq`` (3, h, w) float32 in [0, 1], ``z_0`` (C, h', w') float32, ``key``, ``unreadable``
    (always empty).

    Args:
        index: ``index.json`` of the triples.
    """

    channels = 3
    scale: int

    def __init__(self, index: str) -> None:
        self.index = index
        self._shards = ShardBackend(index)
        names = self._shards.keys()
        self.keys = [name.removesuffix(GT) for name in names if name.endswith(GT)]
        if not names or sorted(key + ending for key in self.keys for ending in ENDINGS) != names:
            raise UpsrError(f"{index}: not the index of triples; `upsr stablesr triples` makes one")
        first = self._item(self.keys[0])
        self.gt_size = first["gt"].shape[-1]
        self.scale = self.gt_size // first["lq"].shape[-1]

    def bind(self, seed: int, degradation: DegradationOptions) -> None:
        """Nothing is drawn.

        Raises:
            UpsrError: the run has a degradation, and the LR images are degraded already.
        """
        if degradation != DegradationOptions():
            raise UpsrError("degradation: TripleDataset's images are degraded already; remove the section")

    def __getitem__(self, sample: SampleId) -> Item:
        return self._item(self.keys[sample.image])

    def _item(self, key: str) -> Item:
        gt = decode_image(self._shards.read(key + GT), self.channels, f"{self.index}/{key}")
        lq, z_0 = (torch.from_numpy(self._array(key + ending)).float() for ending in (LQ, LATENT))
        image = torch.from_numpy(gt.transpose(2, 0, 1).copy())
        return {"gt": image, "lq": lq, "z_0": z_0, "key": key, "unreadable": []}

    def _array(self, name: str) -> np.ndarray[Any, Any]:
        try:
            return np.load(io.BytesIO(self._shards.read(name)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UpsrError(f"{self.index}: '{name}' is damaged ({error}); make its shard again") from None
