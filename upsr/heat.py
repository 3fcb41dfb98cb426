"""Heat maps: grey images as colours, dark violet for the lowest value and pale yellow for the highest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLOURS = ("#000004", "#320a5e", "#781c6d", "#bc3754", "#ed6925", "#fbb61a", "#fcffa4")
"""From 0 to 255, in equal steps; matplotlib's inferno has the same."""

_STOPS = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS])
_TABLE = np.stack(
    [np.interp(np.arange(256), np.linspace(0, 255, len(COLOURS)), _STOPS[:, i]) for i in range(3)], axis=1
).astype(np.uint8)


def heat(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) as colours, (H, W, 3)."""
    return _TABLE[grey]
