"""What there is to compute with, and whether it computes right.

Versions, processor, memory and every device that torch finds; on each device a small picture is restored with shipped weights and
compared with the result that a CPU gave when the package was made.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from upsr.patience import said_if_slow

if TYPE_CHECKING:
    import torch

EXAMPLES = """examples:
  upsr doctor                  for people: the first thing to send with a question
  upsr doctor --json           for programs

Exit codes: 0 every device is right; 1 one is not, or restores nothing."""

_FEATURES = {
    "avx2": "AVX2", "avx512_f": "AVX-512", "avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16", "amx_tile": "AMX", "amx_bf16": "AMX BF16", "amx_int8": "AMX INT8",
    "neon": "NEON", "sve": "SVE", "sve2": "SVE2", "bf16": "BF16",
}  # fmt: skip
"""Names of what decides how fast a processor is here, by torch's."""

_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "PYTORCH_ENABLE_MPS_FALLBACK",
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
)  # fmt: skip
"""Of the environment; those that are set are shown, whoever set them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``upsr doctor``."""
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def main(given: argparse.Namespace) -> int:
    """Run it."""
    with said_if_slow("upsr doctor: loading"):
        from upsr.devices import all_devices
        from upsr.pipeline.selftest import check_device

    machine = _machine()
    if not given.json:
        _print_machine(machine)
    devices = []
    for device in all_devices():
        found = _device(device)
        if not given.json:
            print(f"{device}: {found['name']}{_memory(found['memory_free_gib'])}")
        with said_if_slow(f"upsr doctor: {device} restores"):
            findings = [{**asdict(finding), "right": finding.right} for finding in check_device(device)]
        if not given.json:
            print("\n".join(f"  {_words(finding)}" for finding in findings))
        devices.append({**found, "findings": findings})
    right = all(finding["right"] for device in devices for finding in device["findings"])
    if given.json:
        print(json.dumps({**machine, "devices": devices, "right": right}, indent=1))
    else:
        print("\nevery device is right" if right else "\na device is wrong: its results are not those of the weights")
    return 0 if right else 1


def _machine() -> dict[str, Any]:
    import platform

    import psutil
    import torch

    from upsr.accelerate.native.library import kernels
    from upsr.accelerate.processor import cpu_capabilities
    from upsr.busy import busy_cores, cores
    from upsr.devices import CPU, best_device
    from upsr.pipeline.memory import free_memory
    from upsr.provenance import processor, versions

    found, native = cpu_capabilities(), kernels()
    return {
        "versions": versions("torchvision", "safetensors", "opencv-python", "pyvips"),
        "system": platform.platform(),
        "processor": processor(),
        "features": [name for key, name in _FEATURES.items() if found.get(key)],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "own_kernels": native if isinstance(native, str) else f"compiled, vectors of {native.width} bits",
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "busy_cores": busy_cores(),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "memory_free_gib": free_memory(CPU) / 2**30,
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "automatic": str(best_device()),
    }


def _device(device: torch.device) -> dict[str, Any]:
    from upsr.devices import device_name, has_float64, is_cuda
    from upsr.pipeline.hardware import dtype_for
    from upsr.pipeline.memory import free_memory
    from upsr.provenance import processor

    return {
        "device": str(device),
        "name": processor() if device.type == "cpu" else device_name(device),
        "memory_free_gib": free_memory(device) / 2**30,
        "float64": has_float64(device),
        "cuda_interface": is_cuda(device),
        "automatic_dtype": str(dtype_for("auto", device)).removeprefix("torch."),
    }


def _print_machine(machine: Mapping[str, Any]) -> None:
    print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    print(machine["system"])
    print(f"processor: {machine['processor']}; {', '.join(machine['features']) or 'no feature that torch names'}")
    print(
        f"cores: {machine['cores']} allowed of {machine['cores_of_machine']}, {machine['busy_cores']} busy with other programs; "
        f"{machine['threads']} threads of torch, kernels for {machine['kernels']}"
    )
    print(f"own kernels: {machine['own_kernels']}")
    print(f"memory: {machine['memory_gib']:.1f} GiB{_memory(machine['memory_free_gib'])}")
    if machine["environment"]:
        print("environment:", " ".join(f"{name}={value}" for name, value in machine["environment"].items()))
    print(f"--device auto is {machine['automatic']}\n")


def _memory(free: float) -> str:
    return f", {free:.1f} GiB free"


def _words(finding: Mapping[str, Any]) -> str:
    if finding["problem"] is not None:
        return f"{finding['dtype']}: WRONG: {finding['problem']}"
    said = "right" if finding["right"] else "WRONG"
    return (
        f"{finding['dtype']}: {said}: differs by {finding['largest']:.4f} grey levels of 255 at most "
        f"(up to {finding['limit']:g} is rounding), {finding['seconds']:.2f} s"
    )
