"""Figure 3a of the paper: the change of Stable Diffusion's features by the SFT layers, over the timesteps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.methods.stablesr.method import StableSR


class ConditionStrength:
    """Cosine similarities of residual branches before and after their SFT layers, by timestep; low ones mean a strong condition.

    Args:
        method: restores while :meth:`watching`.

    Attributes:
        layers: names of the SFT layers, paths in the U-Net with ``_`` for ``.``.
    """

    def __init__(self, method: StableSR) -> None:
        self.method = method
        self.layers = list(method.conditioning.sft)
        device = next(method.conditioning.parameters()).device
        self._sums = torch.zeros(len(self.layers), method.process.num_timesteps, device=device)
        self._counts = torch.zeros_like(self._sums)
        self._t = torch.zeros(0)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Adds every network call of the block."""
        conditioning = self.method.conditioning
        hooks: list[Any] = [conditioning.encoder.register_forward_pre_hook(self._keep_t)]
        hooks += [conditioning.sft[name].register_forward_hook(self._added(i)) for i, name in enumerate(self.layers)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def means(self) -> tuple[list[float], Tensor]:
        """The signal-to-noise ratios of the timesteps that were seen, descending in t, and (layers, timesteps) similarities.

        The ratio is a / (1 - a), a = alpha-bar_t.
        """
        seen = self._counts[0].nonzero().flatten().flip(0)
        a = self.method.process.alpha_bar(seen.cpu())
        return (a / (1 - a)).tolist(), (self._sums[:, seen] / self._counts[:, seen]).cpu()

    def _keep_t(self, encoder: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._t = arguments[1]

    def _added(self, layer: int) -> Callable[..., None]:
        def add(sft: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = arguments[0].flatten(1).float(), output.flatten(1).float()
            self._sums[layer].index_add_(0, self._t, F.cosine_similarity(before, after))
            self._counts[layer].index_add_(0, self._t, torch.ones_like(self._t, dtype=torch.float32))

        return add
