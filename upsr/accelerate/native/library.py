"""The compiled library."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import record_function

from upsr.accelerate.processor import cpu_capabilities

_ADDRESS, _COUNT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


@dataclass(frozen=True)
class Kernels:
    """The functions of kernels.cpp.

    Attributes:
        attention, winograd, norm, normal: take what kernels.cpp says but for the last two arguments; 0 is success.
        width: bits of the vectors that they use here, 512 or 256.
    """

    attention: Callable[..., int]
    winograd: Callable[..., int]
    norm: Callable[..., int]
    normal: Callable[..., int]
    width: int


@cache
def kernels() -> Kernels | str:
    """The library's functions, or in words why there are none."""
    paths = [Path(__file__).with_name(f"_kernels{suffix}") for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return "not built: that needs Linux, x86-64 and a C++ compiler where upsr is installed"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as e:
        return f"cannot be loaded: {e}"
    library.upsr_sources.restype = ctypes.c_char_p
    digest = _digest(path.parent)
    if digest is not None and library.upsr_sources().decode() != digest:
        return "built of other sources: install upsr again (make venv, or pip install)"
    if not (width := library.upsr_width()):
        return "need AVX2"
    attention, winograd, norm, normal = (
        library.upsr_attention, library.upsr_winograd, library.upsr_norm, library.upsr_normal
    )  # fmt: skip
    attention.argtypes = [_ADDRESS] * 4 + [_COUNT] * 4 + [ctypes.c_float, _INT, _INT, _INT]
    winograd.argtypes = [_ADDRESS] * 4 + [_COUNT] * 7 + [_INT, _INT, _INT]
    norm.argtypes = [_ADDRESS] * 8 + [_COUNT] * 4 + [ctypes.c_double, _INT, _INT, _INT]
    normal.argtypes = [_ADDRESS] * 2 + [_COUNT] * 6 + [_INT, _INT, _INT]
    return Kernels(attention, winograd, norm, normal, width)


def _digest(folder: Path) -> str | None:
    """Of the sources in a folder, as setup.py told it the compiler; ``None`` where there are none, as in a wheel."""
    sources = sorted([*folder.glob("*.cpp"), *folder.glob("*.h")])
    return None if not sources else hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def take(x: Tensor) -> bool:
    """The kernels compute with tensors such as ``x``, here and now.

    In bfloat16 they multiply in float32, which is faster but where there are matrix units.
    """
    return (
        not torch.compiler.is_compiling()  # first, as a tracer cannot take the others
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and not _has_matrix_units()))
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(kernels(), str)
    )


def call(name: str, *arguments: float | None, like: Tensor) -> None:
    """Runs a kernel on torch's threads; ``like`` has the type of its tensors.

    Raises:
        MemoryError: there is none for the kernel's work.
    """
    found = kernels()
    assert not isinstance(found, str)
    with record_function(f"upsr::{name}"):
        kernel: Callable[..., int] = getattr(found, name)
        if kernel(*arguments, like.dtype == torch.bfloat16, torch.get_num_threads(), found.width):
            raise MemoryError(f"no memory for the work of {name}")


@cache
def _has_matrix_units() -> bool:
    return bool(cpu_capabilities().get("amx_bf16"))
