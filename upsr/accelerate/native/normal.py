"""Standard normal numbers by counters, as :mod:`upsr.philox` has them of torch's operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upsr.accelerate.native import library


def takes(device: torch.device) -> bool:
    """The kernel draws on the device."""
    return device.type == "cpu" and not isinstance(library.kernels(), str)


def normal_field(keys: Sequence[int], channels: int, rows: slice, columns: slice) -> Tensor:
    """:func:`upsr.philox.normal_field` on the CPU, to the bit but where the rounding to float32 is a tie."""
    words = torch.tensor([key - (key >> 63 << 64) for key in keys])  # the same bits with a sign
    height, width = rows.stop - rows.start, columns.stop - columns.start
    out = torch.empty(len(keys), channels, height, width)
    library.call(
        "normal", words.data_ptr(), out.data_ptr(), len(keys), channels, rows.start, height, columns.start, columns.stop,
        like=out,
    )  # fmt: skip
    return out
