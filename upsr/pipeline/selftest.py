"""A small picture restored with shipped weights on a device, beside the result that a CPU gave when the package was made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from upsr.devices import CPU, synchronise
from upsr.methods.base import Method
from upsr.pipeline.files import load_model
from upsr.pipeline.hardware import dtype_for
from upsr.restoring.restore import restore

WEIGHTS = "tiny-1"
VECTOR = Path(__file__).with_name("selftest.safetensors")
"""``lq``, (3, 24, 24) in grey levels, and ``restored``, (3, 96, 96) in 65535ths; scripts/selftest_vector.py makes it."""

LIMITS = {torch.float32: 0.1, torch.bfloat16: 2.0}
"""Largest difference in grey levels of 255 that is right, by what the denoiser computes in.

Measured: 0.0001 between AVX-512, AVX2 and neither, 0.04 in float16, whose products are as coarse as those of TF32, and 0.62 in
bfloat16. With weights rounded to bfloat16 a restoration in float32 is 0.45 off, with one convolution 2 % too large 0.001 to 0.25.
"""

_FULL = 65535


@dataclass(frozen=True)
class Finding:
    """How a device restores the picture.

    Attributes:
        largest: difference from the stored result, in grey levels of 255; ``None`` if it could not be restored.
        seconds: of the second of two restorations.
        problem: the reason why it could not.
    """

    device: str
    dtype: str
    limit: float
    largest: float | None
    seconds: float | None
    problem: str | None = None

    @property
    def right(self) -> bool:
        """Whether the result is the stored one, up to rounding."""
        return self.largest is not None and self.largest <= self.limit


def check_device(device: torch.device) -> Iterator[Finding]:
    """Findings of a device: in float32, and in the type that is chosen on it where that is another."""
    method, _ = load_model(WEIGHTS)
    vector = load_file(VECTOR)
    for dtype in dict.fromkeys((torch.float32, dtype_for("auto", device))):
        yield _compared(method.eval(), vector, device, dtype)


def made(lq: Tensor) -> Tensor:
    """The result that is stored of a picture (3, h, w) in grey levels."""
    method, _ = load_model(WEIGHTS)
    return (_restored(method.eval(), lq, CPU, torch.float32).clamp(0, 1) * _FULL).round().to(torch.uint16)


def _restored(method: Method, lq: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    working = method.for_inference(dtype).to(device)
    result = restore(working, lq[None].float().div(255).to(device), seed=0, names=["selftest"])
    return result[0].float().cpu()


def _compared(method: Method, vector: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Finding:
    name, limit = str(dtype).removeprefix("torch."), LIMITS[dtype]
    try:
        _restored(method, vector["lq"], device, dtype)
        synchronise(device)
        start = time.perf_counter()
        result = _restored(method, vector["lq"], device, dtype)
        seconds = time.perf_counter() - start
    except (
        RuntimeError,
        NotImplementedError,
        AssertionError,
        TypeError,
    ) as error:  # torch's words for what a device lacks
        return Finding(str(device), name, limit, None, None, " ".join(str(error).split())[:300])
    if not result.isfinite().all():
        return Finding(str(device), name, limit, None, seconds, "the result is not finite")
    # uint16 has hardly any operators.
    difference = result.clamp(0, 1).double() - vector["restored"].to(torch.int32).double() / _FULL
    return Finding(str(device), name, limit, 255 * float(difference.abs().max()), seconds)
