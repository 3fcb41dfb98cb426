"""Which device this process works on, and which processes work with it."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist

from upsr.errors import UpsrError

Launcher = Literal["none", "pytorch", "slurm"]


@dataclass(frozen=True)
class Runtime:
    """The place of this process in the run."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, in rank order, on every process."""
        if self.world_size == 1:
            return [item]
        items: list[Any] = [None] * self.world_size
        dist.all_gather_object(items, item)
        return items

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self.world_size > 1:
            dist.barrier()


@contextlib.contextmanager
def runtime(launcher: Launcher, num_gpu: int | Literal["auto"]) -> Iterator[Runtime]:
    """Join the other processes of the run, and leave them at the end.

    Args:
        launcher: ``none`` for one process; ``pytorch`` under torchrun; ``slurm`` under srun.
        num_gpu: GPUs of the whole run; ``auto`` uses as many as processes were started, or the CPU where there is none.

    Raises:
        UpsrError: CUDA or GPUs are missing, or the number of processes is not ``num_gpu``.
    """
    rank, world_size, local_rank = _place(launcher)
    device = _device(num_gpu, world_size, local_rank)
    if launcher == "none":
        yield Runtime(device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=datetime.timedelta(minutes=30))
    try:
        yield Runtime(device, rank, world_size)
    finally:
        dist.destroy_process_group()


def default_launcher() -> Launcher:
    """``pytorch`` in a process that torchrun started, else ``none``."""
    return "pytorch" if "TORCHELASTIC_RUN_ID" in os.environ else "none"


def _place(launcher: Launcher) -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this machine, from the launcher's environment."""
    if launcher == "none":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UpsrError(
                "--launcher none: several processes were started and would overwrite each other; use pytorch"
            )
        return 0, 1, 0
    if launcher == "pytorch":
        return (
            _environment("RANK", launcher),
            _environment("WORLD_SIZE", launcher),
            _environment("LOCAL_RANK", launcher),
        )
    place = tuple(_environment(name, launcher) for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
    os.environ.setdefault("MASTER_ADDR", first_host(os.environ.get("SLURM_JOB_NODELIST", "")))
    # Jobs that share a node need ports of their own.
    os.environ.setdefault("MASTER_PORT", str(20000 + _environment("SLURM_JOB_ID", launcher) % 20000))
    return place  # type: ignore[return-value]


def _environment(name: str, launcher: Launcher) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        started_by = {"pytorch": "torchrun", "slurm": "srun"}[launcher]
        raise UpsrError(
            f"--launcher {launcher}: {name} is not set in the environment; start with {started_by}, or use --launcher none"
        ) from None


def first_host(node_list: str) -> str:
    """The first host of a Slurm node list such as ``gpu[003-005,8],other1``; no shell is asked."""
    match = re.match(r"([\w.-]+)(?:\[(\w+))?", node_list)
    if not match:
        raise UpsrError(f"--launcher slurm: SLURM_JOB_NODELIST is '{node_list}', no list of hosts; set MASTER_ADDR")
    return match[1] + (match[2] or "")


def _device(num_gpu: int | Literal["auto"], world_size: int, local_rank: int) -> torch.device:
    cuda = torch.cuda.is_available()
    if num_gpu == 0 or (num_gpu == "auto" and not cuda):
        return torch.device("cpu")
    if not cuda:
        raise UpsrError(f"num_gpu: {num_gpu} was asked for, but CUDA is not available here; set num_gpu: auto or 0")
    if num_gpu != "auto" and num_gpu != world_size:
        raise UpsrError(
            f"num_gpu: {num_gpu} was asked for, but {world_size} process(es) were started; start one for each GPU: "
            f"torchrun --nproc_per_node={num_gpu} train.py --launcher pytorch ..., or set num_gpu: auto"
        )
    if local_rank >= torch.cuda.device_count():
        raise UpsrError(
            f"{local_rank + 1} or more processes were started on this machine, which has {torch.cuda.device_count()} GPU(s)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
