"""One training step: for each player forward and backward passes over the micro-batches, then its update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from upsr.config.schema import TrainOptions
from upsr.engine.checkpoint import PlayerState
from upsr.engine.distributed import Runtime
from upsr.engine.players import Outcome, Updater, training_only
from upsr.engine.tally import added
from upsr.errors import UpsrError
from upsr.methods.base import Batch, Training
from upsr.methods.build import autocast_dtype
from upsr.rng import derive_seed

T = TypeVar("T")


@dataclass(frozen=True)
class MicroBatch:
    """Samples of one forward pass.

    Attributes:
        batch: tensors by name; all players get the same mapping, and may leave something for the next in it.
        generators: one for each sample; all players draw from them in turn.
        files: the samples' sources.
        slots: the samples' places in the global batch.
    """

    batch: Batch
    generators: Sequence[torch.Generator]
    files: Sequence[str]
    slots: Sequence[int]


@dataclass(frozen=True)
class Update:
    """One player's part of an iteration.

    Attributes:
        losses: means over this process's micro-batches, detached; tables are sums, single values are all of them.
        seen: inputs and losses of each micro-batch, to be kept if they are not finite.
    """

    losses: dict[str, Tensor]
    seen: list[dict[str, Any]]
    outcome: Outcome


@runtime_checkable
class Recomputing(Protocol):
    """A network that can drop activations and compute them again in the backward pass."""

    activation_checkpointing: bool


class TrainingStep:
    """The iteration of a training, wherever its batches come from.

    Attributes:
        updaters: by player, in the order of the updates.
    """

    def __init__(
        self, training: Training, settings: TrainOptions, run: Runtime, *, seed: int, bucket_mb: float = 25
    ) -> None:
        self.training, self.settings, self.run, self.seed = training, settings, run, seed
        _lay_out(training, settings)
        self.updaters = {name: Updater(player, settings, run) for name, player in training.players.items()}
        if settings.compile != "none":
            for player in training.players.values():
                player.network.compile(mode=settings.compile)
        self._parallel: dict[str, nn.Module] = {name: self._distributed(name, bucket_mb) for name in self.updaters}

    def __call__(
        self, iteration: int, micro_batches: Iterable[MicroBatch], meanwhile: Callable[[], T]
    ) -> tuple[dict[str, Update], T]:
        """Update every player.

        Args:
            iteration: finished iterations, which draws and learning rates are functions of.
            micro_batches: ``train.accumulate`` of them, read while the first player's passes go on.
            meanwhile: called once, while the device is busy with the last backward pass.

        Returns:
            Updates by player, and what ``meanwhile`` gave.
        """
        # Dropout, where a network has it, is the one draw that takes no generator.
        torch.manual_seed(derive_seed(self.seed, "train", iteration, "rank", self.run.rank))
        updates: dict[str, Update] = {}
        read: list[MicroBatch] = []
        for name, updater in self.updaters.items():
            with training_only(name, self.updaters):
                losses, seen = self._gradients(name, read or _kept(micro_batches, read))
                if len(updates) + 1 == len(self.updaters):
                    answer = meanwhile()
                updates[name] = Update(losses, seen, updater.step(iteration, losses["total"]))
        return updates, answer

    def load(self, states: Mapping[str, PlayerState], source: str) -> None:
        """Take over the players of a checkpoint.

        Raises:
            UpsrError: they are of another phase, network or optimiser.
        """
        if states.keys() != self.updaters.keys():
            raise UpsrError(
                f"{source}: the state is of another training; it has the players {', '.join(states)}, this one has "
                f"{', '.join(self.updaters)}. Begin with its weights: path.pretrain_network_g"
            )
        for name, updater in self.updaters.items():
            try:
                updater.load(states[name])
            except UpsrError as error:
                raise UpsrError(f"{source}: {error}") from None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast in the type of ``train.amp``."""
        dtype = autocast_dtype(self.settings.amp)
        return torch.autocast(self.run.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """All players' networks compute with their averages."""
        with contextlib.ExitStack() as stack:
            for updater in self.updaters.values():
                stack.enter_context(updater.averaged_weights())
            yield

    def labelled(self, player: str, name: str) -> str:
        """Name of a player's number in logs: without the player where there is only one."""
        return name if len(self.updaters) == 1 else f"{player}/{name}"

    def _gradients(
        self, player: str, micro_batches: Iterable[MicroBatch]
    ) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Forward and backward passes of one player; returns mean losses, and inputs with losses for the guard."""
        accumulate = self.settings.accumulate
        totals: dict[str, Tensor] = {}
        seen = []
        for index, micro in enumerate(micro_batches):
            with self._synchronised_only_if(player, index + 1 == accumulate):
                with self.autocast():
                    losses = self._parallel[player](player, micro.batch, micro.generators)
                self.updaters[player].backward(losses["total"] / accumulate)
            detached = {name: value.detach() for name, value in losses.items()}
            for name, value in detached.items():
                share = value if value.dim() else value / accumulate  # tables are sums already, and values are no means
                totals[name] = added(name, totals.get(name), share)
            seen.append({**micro.batch, "files": list(micro.files), "slots": list(micro.slots), "losses": detached})
        return totals, seen

    def _distributed(self, player: str, bucket_mb: float) -> nn.Module:
        """The training as one player's process group sees it: its gradients are averaged over the processes."""
        if self.run.world_size == 1:
            return self.training
        # DistributedDataParallel takes the parameters that require gradients when it is made.
        with training_only(player, self.updaters):
            return DistributedDataParallel(
                self.training,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                bucket_cap_mb=bucket_mb,
                # With no_sync the first iterations differ from the later ones.
                static_graph=self.settings.accumulate == 1,
            )

    def _synchronised_only_if(self, player: str, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of all but the last micro-batch stay on this process."""
        parallel = self._parallel[player]
        if last or not isinstance(parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return parallel.no_sync()


def _kept(micro_batches: Iterable[MicroBatch], into: list[MicroBatch]) -> Iterator[MicroBatch]:
    """Pass them on, and remember them for the other players."""
    for micro in micro_batches:
        into.append(micro)
        yield micro


def _lay_out(training: Training, settings: TrainOptions) -> None:
    """Options that change how much memory trained networks take and how images lie in it, not the result."""
    if settings.activation_checkpointing:
        networks = [player.network for player in training.players.values()]
        able = [network for network in networks if isinstance(network, Recomputing)]
        if not able:
            names = ", ".join(type(network).__name__ for network in networks)
            raise UpsrError(f"train.activation_checkpointing: {names} has none; set it to false")
        for network in able:
            network.activation_checkpointing = True
    if settings.channels_last:
        for part in training.convolutional():
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
