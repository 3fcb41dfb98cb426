"""From accumulated gradients to new weights: scaling, norm, clipping, optimiser, average."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from upsr.config.schema import TrainOptions
from upsr.engine.distributed import Runtime

_LOWEST_SCALE = 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        problem: what was not finite, for which the step was skipped; ``None`` for a good step.
        expected: the gradients exceeded float16 and the loss scale was lowered for it, which is how it finds its value.
        grad_norm: L2 norm of the gradients of all parameters, before clipping.
    """

    problem: str | None
    expected: bool
    grad_norm: float


class Updater:
    """The optimiser, what scales its gradients and what averages its weights.

    Args:
        network: the trained network; the average starts as a copy of it.

    Attributes:
        average: exponential moving average of the weights; ``average.module`` is a network.
    """

    def __init__(self, network: nn.Module, settings: TrainOptions, run: Runtime) -> None:
        self.settings = settings
        self.run = run
        self.network = network
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.average = _average_of(network, settings.ema_decay)
        arguments = settings.optim_g.model_dump(exclude={"type"})
        self.optimizer = getattr(torch.optim, settings.optim_g.type)(self.parameters, **arguments, fused=True)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=settings.amp == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a (share of a) loss."""
        self.scaler.scale(loss).backward()

    def step(self, iteration: int, loss: Tensor) -> Outcome:
        """Apply the gradients, unless they or the loss are not finite; then weights and average stay as they are.

        Args:
            iteration: finished iterations, which the learning rate is a function of.
            loss: of this process; the step is good only if those of all processes are finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.optim_g.lr * self.rate_factor(iteration)
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        loss_is_finite = self.run.reduce_min(torch.isfinite(loss).float())
        # The one place where an iteration waits for the device.
        finite_loss, grad_norm = torch.stack([loss_is_finite, norm.float()]).tolist()
        problem = _problem(bool(finite_loss), grad_norm)
        overflow = bool(finite_loss) and self.scaler.is_enabled() and self.scaler.get_scale() > _LOWEST_SCALE
        if problem is None:
            if self.settings.max_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(self.parameters, self.settings.max_grad_norm, norm)
            self.scaler.step(self.optimizer)
            self.average.update_parameters(self.network)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(problem, expected=problem is not None and overflow, grad_norm=grad_norm)

    def rate_factor(self, iteration: int) -> float:
        """Of the learning rate, for the step after ``iteration`` finished ones: warm-up, then milestones.

        A function of the iteration alone, so there is no scheduler whose state could be lost.
        """
        schedule = self.settings.scheduler
        warmup = min(1.0, (iteration + 1) / self.settings.warmup_iter) if self.settings.warmup_iter else 1.0
        return warmup * schedule.gamma ** sum(iteration + 1 > milestone for milestone in schedule.milestones)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]


def _problem(finite_loss: bool, grad_norm: float) -> str | None:
    if not finite_loss:
        return "the loss is not finite"
    return None if math.isfinite(grad_norm) else "the gradient is not finite"


def _average_of(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the parameters, starting as a copy."""
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.update_parameters(network)  # the first update copies
    average.requires_grad_(False).eval()
    return average
