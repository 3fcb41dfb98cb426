"""What every restoration model offers to training and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from upsr.config.schema import Options
from upsr.diffusion.sampling import NoiseSource

Purpose = Literal["train", "test"]

Observer = Callable[[str, Tensor], None]
"""Is shown what a restoration does: a name and (B, 1 or C, s*h, s*w) in [0, 1]."""


class RestorationModel(nn.Module, ABC):
    """A trained network with what surrounds it: frozen networks, the process, the losses.

    ``forward`` is the training loss, so that DistributedDataParallel wraps the model as it is.

    Attributes:
        network_g: the trained network; the only part with gradients, and the only part that is saved.
        scale: upscaling factor.
        channels: image channels, 1 or 3.
        size_multiple: LR height and width that :meth:`restore` takes are multiples of it.
        draws: whether a restoration depends on its noise.
        losses: what training minimises; ``None`` in a model that was built for testing.
    """

    network_g: nn.Module
    losses: nn.Module | None
    scale: int
    channels: int
    size_multiple: int
    draws: bool = False

    @classmethod
    @abstractmethod
    def from_options(cls, opt: Options, purpose: Purpose) -> RestorationModel:
        """Build networks, load the weights that the options name, and for training the losses."""

    @abstractmethod
    def forward(self, lq: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The training losses of a batch.

        Args:
            lq: (B, C, h, w) in [0, 1].
            gt: (B, C, s*h, s*w) in [0, 1].
            generators: one for each sample; the only source of randomness.

        Returns:
            Scalars by name, weighted; ``"total"`` is their sum and the one to differentiate. Models with timesteps add
            ``"by_timestep"``, (2, T): the sum of an unweighted error over the samples at each timestep, and their number.
        """

    @abstractmethod
    def restore(self, lq: Tensor, noise: NoiseSource, observe: Observer | None = None) -> Tensor:
        """Super-resolve.

        Args:
            lq: (B, C, h, w) in [0, 1], sides multiples of ``size_multiple``.
            noise: gives the k-th standard normal tensor of shape (B, C*s*s, h, w).
            observe: is shown the intermediate results, in their order.

        Returns:
            (B, C, s*h, s*w) in [0, 1].
        """


class Frozen(nn.Module):
    """A network that is never trained: no gradients, always in evaluation mode.

    Args:
        training_dtype: type it computes in while what surrounds it is in training mode; ``None`` is float32.
    """

    def __init__(self, network: nn.Module, training_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.training_dtype = training_dtype
        self._dtype = training_dtype

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode; outside training it computes in float32."""
        self._dtype = self.training_dtype if mode else None
        return super().train(False)

    def forward(self, *inputs: Any) -> Any:
        """The network's output in float32, whatever autocast is on around it."""
        with (
            torch.inference_mode(),
            torch.autocast(inputs[0].device.type, self._dtype, enabled=self._dtype is not None),
        ):
            result = self.network(*inputs)
        return result.to(torch.float32, copy=True)  # autograd accepts no inference tensor
