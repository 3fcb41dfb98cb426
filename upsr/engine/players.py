"""Players during training: the trained parameters of each, their optimiser, loss scaler and average."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from upsr.archs.weights import misfits
from upsr.config.schema import TrainOptions
from upsr.engine.checkpoint import PlayerState
from upsr.engine.distributed import Runtime
from upsr.errors import UpsrError
from upsr.methods.base import Player

_LOWEST_SCALE = 1.0


@dataclass(frozen=True)
class Outcome:
    """Result of one update.

    Attributes:
        problem: what was not finite, for which the update was skipped; ``None`` for a good one.
        expected: float16 gradients overflowed and the loss scale was lowered, which is how it finds its value.
        grad_norm: L2 norm of the gradients of all trained parameters, before clipping.
    """

    problem: str | None
    expected: bool
    grad_norm: float


class Updater:
    """Turns accumulated gradients of a player into new parameters: scaling, norm, clipping, optimiser, average.

    Args:
        player: those parameters of its network are trained that require gradients now.

    Attributes:
        parameters: the trained ones, by name.
        average: exponential moving average of ``parameters``, in their layout; empty for a player that is not averaged.
    """

    def __init__(self, player: Player, settings: TrainOptions, run: Runtime) -> None:
        self.network, self.optim = player.network, player.optim
        self.settings, self.run = settings, run
        self.parameters = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if player.averaged else {}
        arguments = self.optim.model_dump(exclude={"type"})
        optimizer = getattr(torch.optim, self.optim.type)
        self.optimizer = optimizer(list(self.parameters.values()), **arguments, fused=True)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=settings.amp == "fp16")
        self._update_average = get_ema_multi_avg_fn(settings.ema_decay)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a (share of a) loss."""
        self.scaler.scale(loss).backward()

    def step(self, iteration: int, loss: Tensor) -> Outcome:
        """Apply the gradients, unless they or the loss are not finite; then parameters and average stay as they are.

        Args:
            iteration: finished iterations, which the learning rate is a function of.
            loss: of this process; the step is good only if those of all processes are finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.lr * rate_factor(self.settings, iteration)
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.parameters.values())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        loss_is_finite = self.run.reduce_min(torch.isfinite(loss).float())
        # The one place where an update waits for the device.
        finite_loss, grad_norm = torch.stack([loss_is_finite, norm.float()]).tolist()
        problem = _problem(bool(finite_loss), grad_norm)
        overflow = bool(finite_loss) and self.scaler.is_enabled() and self.scaler.get_scale() > _LOWEST_SCALE
        if problem is None:
            if self.settings.max_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(parameters, self.settings.max_grad_norm, norm)
            self.scaler.step(self.optimizer)
            self.follow()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(problem, expected=problem is not None and overflow, grad_norm=grad_norm)

    def follow(self) -> None:
        """Move the average towards the parameters."""
        if self.average:
            self._update_average(list(self.average.values()), list(self.parameters.values()), 0)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The network computes with the average, exchanged in place."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, averaged in self.average.items():
            own = self.parameters[name]
            own.data, averaged.data = averaged.data, own.data

    def state(self) -> PlayerState:
        """Content of a checkpoint: the tensors themselves until the next step, but for buffers, of which it has copies."""
        saved = self._saved()
        averages: dict[Tensor, Tensor] = {self.parameters[name]: value for name, value in self.average.items()}
        trained = set(self.parameters.values())
        # Some networks change buffers in the forward pass, before the step.
        params = {name: value.detach() if value in trained else value.clone() for name, value in saved.items()}
        # Buffers have no average; with them the tensors are complete for use.
        averaged = {
            name: averages[value].detach() if value in averages else params[name] for name, value in saved.items()
        }
        return PlayerState(
            params=params,
            params_ema=averaged if averages else {},
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
        )

    @torch.no_grad()
    def load(self, state: PlayerState) -> None:
        """Take over a checkpoint.

        Raises:
            UpsrError: it is of another network or optimiser.
        """
        own = self._saved()
        frozen = self.network.state_dict().keys() - own.keys()
        for kind, tensors in (("params", state.params), ("params_ema", state.params_ema)):
            faults = misfits(own, {name: value for name, value in tensors.items() if name not in frozen})
            if faults and tensors:
                raise UpsrError(
                    f"the state is of another network; {kind} has {'; '.join(faults)}. Restore the network's options, or start a "
                    "new run from its weights: path.pretrain_network_g"
                )
        for name, value in own.items():
            value.copy_(state.params[name])
        for name, value in self.average.items():
            value.copy_((state.params_ema or state.params)[name])
        try:
            self.optimizer.load_state_dict(dict(state.optimizer))
        except (KeyError, ValueError) as error:
            raise UpsrError(f"the optimiser's state does not fit ({error}); restore train.optim_g") from None
        if state.scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(state.scaler))

    def _saved(self) -> dict[str, Tensor]:
        """The network's trained parameters and buffers, by name; frozen parameters come from a file of their own."""
        frozen = set(self.network.parameters()) - set(self.parameters.values())
        content = self.network.state_dict(keep_vars=True)
        return {name: value for name, value in content.items() if value not in frozen}


@contextlib.contextmanager
def training_only(name: str, updaters: Mapping[str, Updater]) -> Iterator[None]:
    """Only the parameters of one player require gradients."""
    trained = {parameter for updater in updaters.values() for parameter in updater.parameters.values()}
    others = trained - set(updaters[name].parameters.values())
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def rate_factor(settings: TrainOptions, iteration: int) -> float:
    """Factor of the learning rate for the step after ``iteration`` finished ones: warm-up, then the schedule.

    A function of the iteration alone, so there is no scheduler whose state could be lost.
    """
    schedule, warmup = settings.scheduler, settings.warmup_iter
    growth = min(1.0, (iteration + 1) / warmup) if warmup else 1.0
    if schedule.type == "CosineLR":
        passed = max(0, iteration - warmup) / max(1, settings.total_iter - warmup)
        return growth * (schedule.min_factor + (1 - schedule.min_factor) * (1 + math.cos(math.pi * passed)) / 2)
    return growth * schedule.gamma ** sum(iteration + 1 > milestone for milestone in schedule.milestones)


def _problem(finite_loss: bool, grad_norm: float) -> str | None:
    if not finite_loss:
        return "the loss is not finite"
    return None if math.isfinite(grad_norm) else "the gradient is not finite"
