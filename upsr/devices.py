"""The devices that torch computes on: which one there is, and the questions whose answer depends on its kind.

Torch calls NVIDIA's and AMD's graphics cards ``cuda``, Intel's ``xpu`` and Apple's ``mps``; makers of others register a name. All
of them are found by ``torch.accelerator``, moved to, drawn on and waited for alike. What only some of them have is asked for here
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

CPU = torch.device("cpu")


def best_device() -> torch.device:
    """The accelerator that torch finds here, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return CPU if found is None else torch.device(found.type)


def all_devices() -> Iterator[torch.device]:
    """The CPU, then every accelerator of this machine."""
    yield CPU
    kind = best_device().type
    if kind != "cpu":
        yield from (torch.device(kind, index) for index in range(torch.accelerator.device_count()))


def is_cuda(device: torch.device) -> bool:
    """Whether it has CUDA's interface, as AMD's cards under ROCm do: events, graphs, TF32, cuDNN."""
    return device.type == "cuda"


def make_current(device: torch.device) -> None:
    """Take the device, which has an index, for those of its kind that are named without one."""
    if (chosen := getattr(_module(device), "set_device", None)) is not None:
        chosen(device)


def device_name(device: torch.device) -> str:
    """The maker's name of an accelerator, or torch's where it tells no other."""
    name = getattr(_module(device), "get_device_name", None)
    return str(device) if name is None else str(name(device))


def float64_device(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one without float64."""
    return device if has_float64(device) else CPU


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64; Apple's do not, nor do all of Intel's."""
    if device.type in ("cpu", "cuda", "mps"):
        return device.type != "mps"
    properties = getattr(_module(device), "get_device_properties", None)
    return properties is None or bool(getattr(properties(device), "has_fp64", True))


def in_float64(x: Tensor) -> Tensor:
    """A tensor in float64, on its device if that has float64, else on the CPU."""
    # A copy to the host that changes the type too would do so on the device.
    return x.double() if has_float64(x.device) else x.cpu().double()


def draws_poisson(device: torch.device) -> bool:
    """Whether the device draws Poisson numbers; torch has no such operator for Apple's."""
    return device.type != "mps"


def has_streams(device: torch.device) -> bool:
    """Whether the device copies beside its computation, from pinned memory of the host. Apple's share the host's memory."""
    return device.type != "cpu" and hasattr(_module(device), "Stream")


def copying_stream(device: torch.device) -> Any:
    """A stream for copies beside the computation; ``None`` where there are none."""
    return _module(device).Stream(device) if has_streams(device) else None


def within(stream: Any, device: torch.device) -> Any:
    """A context in which the device's work goes into the stream; of ``None`` nothing changes."""
    return nullcontext() if stream is None else _module(device).stream(stream)


def current_stream(device: torch.device) -> Any:
    """The stream that the device's work goes into."""
    return _module(device).current_stream(device)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Reset the peak of the allocator, where it counts one."""
    if counts_peak(device):
        _module(device).empty_cache()
        _module(device).reset_peak_memory_stats(device)


def counts_peak(device: torch.device) -> bool:
    """Whether the device's allocator counts the most memory that was in use at once."""
    return device.type != "cpu" and hasattr(_module(device), "max_memory_allocated")


def peak_gib(device: torch.device) -> float | None:
    """Peak of the allocator in GiB since the last reset; ``None`` where nothing counts it, as on the CPU."""
    return _module(device).max_memory_allocated(device) / 2**30 if counts_peak(device) else None


def memory_left(device: torch.device) -> int | None:
    """Bytes that the device's own memory has left; ``None`` where it shares the machine's, or does not tell."""
    information = None if device.type == "cpu" else getattr(_module(device), "mem_get_info", None)
    return None if information is None else int(information(device)[0])


def computes_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether torch says of a card that it has bfloat16 of its own. Of Apple's and others it says nothing."""
    supported = getattr(_module(device), "is_bf16_supported", None) if device.type in ("cuda", "xpu") else None
    return supported is not None and bool(supported(including_emulation=False))


def _module(device: torch.device) -> Any:
    """``torch.cuda``, ``torch.xpu``, ``torch.mps`` or what else is registered for the device's kind."""
    return torch.get_device_module(device)
