"""Standard normal numbers by counters, as :mod:`upsr.philox` has them of torch's operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from upsr.accelerate.native import library


def takes(device: torch.device) -> bool:
    """The kernel draws on the device, here and now."""
    return not torch.compiler.is_compiling() and device.type == "cpu" and not isinstance(library.kernels(), str)


def normal_field(keys: Sequence[int], channels: int, rows: slice, columns: slice) -> Tensor:
    """:func:`upsr.philox.normal_field` on the CPU, to the bit but where the rounding to float32 is a tie."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    # NumPy's memory is the CPU's own whatever torch's defaults and modes are.
    words, values = np.array(keys, np.uint64), np.empty((len(keys), channels, height, width), np.float32)
    out = torch.from_numpy(values)
    library.call(
        "normal", words.ctypes.data, values.ctypes.data, len(keys), channels, rows.start, height, columns.start, columns.stop,
        like=out,
    )  # fmt: skip
    return out
