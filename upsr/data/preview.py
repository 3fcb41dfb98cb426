"""Contact sheets of a degradation: HR crops beside their LR versions."""

from __future__ import annotations

import numpy as np
import torch

from upsr.config.schema_data import DegradationOptions
from upsr.data.datasets import RealESRGANDataset
from upsr.data.degradation import RealESRGANDegradation
from upsr.data.image_io import to_uint8
from upsr.data.loader import collate
from upsr.data.sampler import SampleId

_GAP = 4


def contact_sheet(
    folder: str, degradation: DegradationOptions, *, scale: int, count: int, versions: int, size: int, seed: int
) -> np.ndarray:
    """(H, W, 3) uint8: one row an image, the HR crop followed by ``versions`` degraded ones."""
    dataset = RealESRGANDataset(folder, gt_size=size)
    dataset.bind(seed, degradation)
    degrade = RealESRGANDegradation(degradation, scale)
    columns: list[torch.Tensor] = []
    slots = range(min(count, len(dataset)))
    for version in range(versions):
        batch = collate([dataset[SampleId(version, index)] for index in slots])
        if version == 0:
            first = degrade.ground_truth(batch["gt"].float() / 255)
            columns.append(first)
        # The crop stays the same, the kernels and the decisions change: that is what is to be seen.
        lq = torch.cat(
            [
                degrade(
                    first[slot : slot + 1],
                    batch["kernels"][slot : slot + 1],
                    slots=[slot * degradation.decision_group],
                    keys=[seed, "preview", version],
                )
                for slot in slots
            ]
        )
        columns.append(lq.repeat_interleave(scale, -1).repeat_interleave(scale, -2))
    padded = [torch.nn.functional.pad(column, (0, _GAP, 0, _GAP), value=1.0) for column in columns]
    sheet = torch.cat(padded, dim=-1)
    return to_uint8(torch.cat(list(sheet), dim=-2))
