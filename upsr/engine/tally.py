"""Means, and single values for histograms, over the iterations between two log lines."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from upsr.devices import peak_gib
from upsr.engine.distributed import Runtime

_BY_TIMESTEP, _VALUES = "by_timestep", "_values"


def added(name: str, so_far: Tensor | None, more: Tensor) -> Tensor:
    """What a training gave under a name at two times: the sum, or of single values both together."""
    if so_far is None:
        return more
    return torch.cat([so_far, more]) if name.endswith(_VALUES) else so_far + more


class Tally:
    """Sums losses, norms and times until :meth:`report` is asked for, then begins at zero."""

    def __init__(self, run: Runtime) -> None:
        self.run = run
        self._clear()

    def _clear(self) -> None:
        self._started = time.perf_counter()
        self._iterations = 0
        self._counted: Counter[str] = Counter()
        self._losses: dict[str, Tensor] = {}
        self._norms: dict[str, list[float]] = {}
        self._waited = 0.0

    def add(self, losses: Mapping[str, Tensor], norms: Mapping[str, float]) -> None:
        """A good update. Losses stay on the device."""
        for name, norm in norms.items():
            self._norms.setdefault(name, []).append(norm)
        for name, value in losses.items():
            self._counted[name] += 1
            self._losses[name] = added(name, self._losses.get(name), value)

    def iterated(self, waited: float) -> None:
        """An iteration has ended, in which ``waited`` seconds went by without data."""
        self._iterations += 1
        self._waited += waited

    def report(self, images_per_iteration: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """By tag: means over the iterations and processes, and single values; every process calls it and gets the same."""
        seconds = time.perf_counter() - self._started
        own: dict[str, Any] = {name: value.cpu().double() for name, value in self._losses.items()}
        parts = self.run.gather({"losses": own, "waited": self._waited})
        values: dict[str, float] = {}
        single: dict[str, Tensor] = {}
        for name in own:
            of_all = [part["losses"][name] for part in parts]
            if name.endswith(_VALUES):
                single[f"values/{name.removesuffix(_VALUES)}"] = torch.cat(of_all)
                continue
            total = torch.stack(of_all).sum(dim=0)
            if name.endswith(_BY_TIMESTEP):
                sums, counts = total.tolist()
                prefix = f"losses/{name.removesuffix(_BY_TIMESTEP)}t"
                values |= {f"{prefix}={t}": s / c for t, (s, c) in enumerate(zip(sums, counts, strict=True)) if c}
            else:
                values[f"losses/{name}"] = float(total) / (self._counted[name] * len(parts))
        values |= {name: math.fsum(norms) / len(norms) for name, norms in self._norms.items()}
        values["s_per_iter"] = seconds / self._iterations
        values["images_per_s"] = images_per_iteration * self._iterations / seconds
        values["data_wait_share"] = max(part["waited"] for part in parts) / seconds
        values["memory_gib"] = _peak_memory(self.run.device)
        self._clear()
        return values, single

    def restart_clock(self) -> None:
        """Leave out the time since the last report, which was not training."""
        self._started = time.perf_counter()


def _peak_memory(device: torch.device) -> float:
    """GiB: of the device's allocator, or of this process where nothing counts it."""
    if (peak := peak_gib(device)) is not None:
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
