"""Starts the present command as several processes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from upsr.busy import cores
from upsr.errors import UpsrError

_SEEN = {"cpu": None, "cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}
"""Variables that say which devices a process sees, by kind."""


def launch(devices: list[str]) -> int:
    """Run this command once for each device, as processes of one run; the first exit code that is not 0.

    Raises:
        UpsrError: the devices are not all of one kind, or cannot be shared out among processes.
    """
    kinds = {device.partition(":")[0] for device in devices}
    if len(kinds) > 1 or not kinds <= _SEEN.keys():
        raise UpsrError(
            f"--devices: {','.join(devices)}: name several of one kind, {', '.join(_SEEN)}: cuda:0,cuda:1 or cpu,cpu"
        )
    (kind,) = kinds
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(devices)), "TORCHELASTIC_RUN_ID": "upsr",
        "GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": str(max(cores() // len(devices), 1)) if kind == "cpu" else "1",
    }  # fmt: skip
    if (variable := _SEEN[kind]) is not None:
        common[variable] = ",".join(device.partition(":")[2] or "0" for device in devices)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "upsr", *sys.argv[1:]],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(len(devices))
    ]
    try:
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:
        for process in processes:
            process.wait()
        raise
    return next((code if code > 0 else 4 for code in codes if code), 0)
