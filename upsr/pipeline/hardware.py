"""Devices and types that there are, and which are best."""

from __future__ import annotations

import torch

from upsr.accelerate.processor import cpu_capabilities
from upsr.choices import DTYPES
from upsr.devices import all_devices, best_device, computes_fast_in_bfloat16
from upsr.errors import UpsrError

_DTYPES: dict[str, torch.dtype] = {
    name: torch.float8_e4m3fn if name == "float8" else getattr(torch, name) for name in DTYPES
}


def usable_device(device: torch.device | str) -> torch.device:
    """A device by its name; "auto" is the accelerator where there is one, else the CPU.

    Raises:
        UpsrError: it is not there.
    """
    if isinstance(device, torch.dtype):
        raise UpsrError(f"device is {device}, which is a type; give dtype={device}")
    if device == "auto":
        return best_device()
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, TypeError, AssertionError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        names = ", ".join(str(found) for found in all_devices())
        raise UpsrError(f"device '{device}' cannot be used here ({reason}); give auto or one of {names}") from None
    return wanted


def dtype_for(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """A type by its name; "auto" is the fastest whose results differ from float32's by less than a grey level, see
    docs/performance.md.

    Raises:
        UpsrError: there is no such type.
    """
    if dtype == "auto":
        return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32
    if isinstance(dtype, str) and dtype in _DTYPES:
        return _DTYPES[dtype]
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    raise UpsrError(f"dtype is '{dtype}'; there are auto, {', '.join(DTYPES)}")


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast here."""
    if device.type == "cpu":
        return bool(cpu_capabilities().get("avx512_bf16"))
    return computes_fast_in_bfloat16(device)
