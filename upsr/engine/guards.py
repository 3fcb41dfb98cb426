"""Steps whose loss or gradient is not finite: skipped, counted, kept for inspection, and in the end refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from upsr.atomic import atomic_write
from upsr.config.schema import GuardOptions
from upsr.engine.distributed import Runtime
from upsr.errors import DivergedError, UpsrError

logger = logging.getLogger(__name__)


class NonFiniteGuard:
    """Counts skipped steps. All processes of a run hold the same counts.

    Args:
        folder: offending batches go to ``folder/bad_batches``.

    Attributes:
        skipped: steps skipped so far.
        in_a_row: of them, those since the last good step.
    """

    def __init__(self, options: GuardOptions, folder: Path, run: Runtime) -> None:
        self.options = options
        self.folder = folder / "bad_batches"
        self.run = run
        self.skipped = 0
        self.in_a_row = 0

    def passed(self) -> None:
        """A step was good."""
        self.in_a_row = 0

    def failed(self, iteration: int, reason: str, seed: int, micro_batches: Sequence[Mapping[str, Any]]) -> None:
        """A step was skipped.

        Args:
            iteration: the skipped one, counted from 0, as in the keys of its random draws.
            reason: what was not finite.
            micro_batches: of this process: inputs, files, slots, losses. Every process calls this; the main one writes.

        Raises:
            DivergedError: it was one too many in a row.
        """
        self.skipped += 1
        self.in_a_row += 1
        where = self._keep(iteration, seed, micro_batches)
        if self.run.is_main:
            logger.warning(
                "iteration %d: %s; the step was skipped (%d in a row, %d in all)%s",
                iteration + 1, reason, self.in_a_row, self.skipped, f"; batch in {where}" if where else "",
            )  # fmt: skip
        if self.in_a_row >= self.options.stop_after:
            raise DivergedError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite, the last: {reason}. The weights are "
                f"as they were before; the batches are in {self.folder}. Try a lower train.optim_g.lr, train.max_grad_norm, or "
                "train.amp: bf16 or fp32, then resume from the last checkpoint"
            )

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take over the counts."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def _keep(self, iteration: int, seed: int, micro_batches: Sequence[Mapping[str, Any]]) -> Path | None:
        """Write the batch, unless enough are kept already."""
        wanted = self.run.from_main(len(list(self.folder.glob("*.pt"))) < self.options.keep_batches)
        if not wanted:
            return None
        by_rank = self.run.gather_to_main([{key: _on_cpu(value) for key, value in m.items()} for m in micro_batches])
        if not self.run.is_main:
            return None
        path = self.folder / f"iteration_{iteration}.pt"
        content = {"iteration": iteration, "seed": seed, "keys": [seed, "train", iteration], "ranks": by_rank}
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                torch.save(content, file)
        except UpsrError as error:  # evidence is worth less than the run
            logger.warning("the batch could not be kept: %s", error)
            return None
        return path


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value
