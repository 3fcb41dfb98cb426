"""Which device this process works on, and which processes work with it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from upsr.choices import Launcher
from upsr.devices import CPU, best_device, make_current
from upsr.errors import PeerLostError, UpsrError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """The place of this process in the run.

    Attributes:
        control: process group for small host-side messages, which never wait for the GPU; ``None`` for one process.
        store: where processes leave notes for each other; ``None`` for one process.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    control: Any = None
    store: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, in rank order, on every process."""
        if self.world_size == 1:
            return [item]
        items: list[Any] = [None] * self.world_size
        with self.peers_answering():
            dist.all_gather_object(items, item, group=self.control)
        return items

    def gather_to_main(self, item: Any) -> list[Any]:
        """The items of all processes, in rank order, on the main process; an empty list on the others."""
        if self.world_size == 1:
            return [item]
        items: list[Any] | None = [None] * self.world_size if self.is_main else None
        with self.peers_answering():
            dist.gather_object(item, items, dst=0, group=self.control)
        return items or []

    def from_main(self, item: Any) -> Any:
        """The main process's item, on every process."""
        if self.world_size == 1:
            return item
        items = [item]
        with self.peers_answering():
            dist.broadcast_object_list(items, src=0, group=self.control)
        return items[0]

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """Tensors of one shape from all processes, in rank order, on every process; they never leave their devices' kind."""
        if self.world_size == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with self.peers_answering():
            dist.all_gather(tensors, tensor.contiguous())
        return tensors

    def numbers(self, name: str) -> Iterator[int]:
        """0, 1, 2, ..., each of them on one process only, whichever asks first."""
        if self.world_size == 1:
            yield from itertools.count()
        while True:
            with self.peers_answering():
                number = self.store.add(name, 1) - 1
            yield number

    def vote(self, ballot: int) -> Callable[[], int]:
        """Start to find the largest ballot of all processes; the returned function waits for it.

        Between the two, computation goes on: the vote costs a training step nothing.
        """
        if self.world_size == 1:
            return lambda: ballot
        box = torch.tensor([ballot])
        with self.peers_answering():
            work = dist.all_reduce(box, dist.ReduceOp.MAX, group=self.control, async_op=True)

        def outcome() -> int:
            with self.peers_answering():
                work.wait()
            return int(box)

        return outcome

    def reduce_min(self, value: Tensor) -> Tensor:
        """The smallest of all processes' values, on the device, without waiting for it."""
        if self.world_size > 1:
            with self.peers_answering():
                dist.all_reduce(value, dist.ReduceOp.MIN)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        return bool(self.vote(int(flag))())

    def barrier(self) -> None:
        """Wait for the other processes."""
        self.gather(None)

    @contextlib.contextmanager
    def peers_answering(self) -> Iterator[None]:
        """Turn a broken connection into one message that says whose fault it is not.

        Raises:
            PeerLostError: another process ended or did not answer within ``distributed.timeout``.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _is_broken_connection(error):
                raise
            raise PeerLostError(
                f"rank {self.rank}: another process of this run ended or does not answer; its own message says why "
                f"({str(error).strip().splitlines()[0][:160]})"
            ) from None


def _is_broken_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextlib.contextmanager
def runtime(
    launcher: Launcher, num_gpu: int | Literal["auto"], timeout: datetime.timedelta = datetime.timedelta(minutes=30)
) -> Iterator[Runtime]:
    """Join the other processes of the run, and leave them at the end.

    Args:
        launcher: ``none`` for one process; ``pytorch`` under torchrun; ``slurm`` under srun.
        num_gpu: GPUs, or accelerators of another kind, of the whole run; ``auto`` uses as many as processes were started, or the
            CPU where there is none.
        timeout: after which a process that waits for another gives up.

    Raises:
        UpsrError: there is no GPU or too few of them, or the number of processes is not ``num_gpu``.
    """
    rank, world_size, local_rank = _place(launcher)
    device = _device(num_gpu, world_size, local_rank)
    if launcher == "none":
        yield Runtime(device)
        return
    backend = dist.get_default_backend_for_device(device)
    try:
        store = next(iter(dist.rendezvous("env://", rank, world_size, timeout=timeout)))[0]
        store = dist.PrefixStore(f"attempt_{_attempt()}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(
            f"rank {rank}: the {world_size} processes did not find each other at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} ({str(error).strip().splitlines()[0][:160]})"
        ) from None
    control = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
    yield Runtime(device, rank, world_size, *((control, store) if world_size > 1 else ()))
    # Not after an exception: leaving in good order would wait for processes that may be gone.
    dist.destroy_process_group()


def restarts() -> int:
    """How often torchrun or Slurm has started this job again, as far as this process knows."""
    return max(int(os.environ.get(name, "0")) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def job_id() -> str | None:
    """What stays the same when a scheduler or torchrun starts this job again; ``None`` if nothing does."""
    for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        if os.environ.get(name, "none") != "none":
            return f"{name}={os.environ[name]}"
    return None


def _attempt() -> int:
    """Sets the addresses of restarted processes apart from those of the dead ones.

    torchrun's static rendezvous keeps its store over restarts. On several machines it counts restarts on each for itself, so
    there the count is of no use; the c10d rendezvous, which they need anyway, begins with a new store each time.
    """
    return restarts() if os.environ.get("GROUP_WORLD_SIZE") == "1" else 0


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
    found = best_device()
    if num_gpu == 0 or (num_gpu == "auto" and found == CPU):
        return CPU
    if found == CPU:
        raise UpsrError(
            f"num_gpu: {num_gpu} was asked for, but torch finds no accelerator here (upsr doctor says what it finds); "
            "set num_gpu: auto or 0"
        )
    if num_gpu != "auto" and num_gpu != world_size:
        raise UpsrError(
            f"num_gpu: {num_gpu} was asked for, but {world_size} process(es) were started; start one for each GPU: "
            f"torchrun --nproc_per_node={num_gpu} train.py --launcher pytorch ..., or set num_gpu: auto"
        )
    if local_rank >= torch.accelerator.device_count():
        raise UpsrError(
            f"{local_rank + 1} or more processes were started on this machine, which has {torch.accelerator.device_count()} "
            f"{found.type} device(s)"
        )
    device = torch.device(found.type, local_rank)
    make_current(device)
    return device
