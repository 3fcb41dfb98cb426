"""Starts the present command as several processes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from upsr.errors import UpsrError


def launch(devices: list[str]) -> int:
    """Run this command once for each device, as processes of one run; the first exit code that is not 0.

    Raises:
        UpsrError: the devices are not all CPUs or all CUDA devices.
    """
    from upsr.provenance import cores  # here: it imports torch

    kinds = {device.partition(":")[0] for device in devices}
    if kinds not in ({"cpu"}, {"cuda"}):
        raise UpsrError(f"--devices: {','.join(devices)}: name CPUs or CUDA devices: cuda:0,cuda:1 or cpu,cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(devices)), "TORCHELASTIC_RUN_ID": "upsr",
        "GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": str(max(cores() // len(devices), 1)) if kinds == {"cpu"} else "1",
    }  # fmt: skip
    if kinds == {"cuda"}:
        common["CUDA_VISIBLE_DEVICES"] = ",".join(device.partition(":")[2] or "0" for device in devices)
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
