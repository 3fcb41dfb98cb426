"""Every random draw of the project, as a function of what it is for.

A run has one seed. A generator is derived from that seed and the identity of the draw (epoch and index of a
sample, iteration and slot of a training draw, name of an image), never from how many draws came before. That is
what makes results independent of the number of processes, the batch split and the order of work, and makes a
resumed run continue exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def derive_seed(*keys: int | str) -> int:
    """A 63-bit seed from an ordered list of keys, the same on every machine and Python version.

    >>> derive_seed(0, "noise", 3) == derive_seed(0, "noise", 3) != derive_seed(0, "noise", 4)
    True
    """
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device``, seeded with :func:`derive_seed` of the keys."""
    return torch.Generator(device=device).manual_seed(derive_seed(*keys))


def numpy_generator(*keys: int | str) -> np.random.Generator:
    """A NumPy generator, seeded with :func:`derive_seed` of the keys."""
    return np.random.default_rng(derive_seed(*keys))


def stacked(draw: str, shape: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """One draw of ``shape`` from each generator, stacked to (len(generators), *shape) on the generators' device.

    Args:
        draw: ``"randn"`` (standard normal) or ``"rand"`` (uniform on [0, 1)).
    """
    sampler = {"randn": torch.randn, "rand": torch.rand}[draw]
    return torch.stack([sampler(tuple(shape), generator=g, device=g.device) for g in generators])
