"""The training-pair pool, which puts pairs of different degradations into one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from upsr.rng import numpy_generator


class PairPool:
    """Keeps earlier pairs and trades new ones for them.

    Real-ESRGAN keeps one pool in each process, shuffles it at every step, and replaces the pairs it takes: a stored pair
    leaves with probability batch / pool size at each step. Here every place ("slot") of the global batch has a pool of its
    own, of pool size / batch pairs, from which one is drawn at every step. A pair leaves with the same probability, and
    what a slot gets does not depend on how slots are spread over processes.

    Pairs are kept as 8-bit images on the CPU; the crops and the degradation's output are 8-bit images to begin with.

    Args:
        pairs_per_slot: pool of one slot; 0 passes pairs through.
    """

    def __init__(self, pairs_per_slot: int) -> None:
        self.pairs_per_slot = pairs_per_slot
        self._stored: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def exchange(
        self, lq: Tensor, gt: Tensor, *, slots: Sequence[int], keys: Sequence[int | str]
    ) -> tuple[Tensor, Tensor]:
        """Store a batch and return another of the same shape.

        While a slot's pool is not full its new pair is stored and also returned.

        Args:
            lq, gt: (B, C, h, w) and (B, C, H, W) in [0, 1], multiples of 1/255.
            slots: place of each sample in the global batch.
            keys: identity of the step.
        """
        if self.pairs_per_slot == 0:
            return lq, gt
        pairs = [self._exchange_one(slot, (_pack(lq[i]), _pack(gt[i])), keys) for i, slot in enumerate(slots)]
        lqs, gts = zip(*pairs, strict=True)
        return _unpack(torch.stack(lqs), lq), _unpack(torch.stack(gts), gt)

    def _exchange_one(self, slot: int, pair: tuple[Tensor, Tensor], keys: Sequence[int | str]) -> tuple[Tensor, Tensor]:
        stored = self._stored.setdefault(slot, [])
        if len(stored) < self.pairs_per_slot:
            stored.append(pair)
            return pair
        place = int(numpy_generator(*keys, "pool", slot).integers(self.pairs_per_slot))
        old, stored[place] = stored[place], pair
        return old

    def state_dict(self) -> dict[int, dict[str, Tensor]]:
        """The stored pairs by slot, as uint8 tensors."""
        return {
            slot: {"lq": torch.stack([lq for lq, _ in pairs]), "gt": torch.stack([gt for _, gt in pairs])}
            for slot, pairs in self._stored.items()
        }

    def load_state_dict(self, state: Mapping[int, Mapping[str, Tensor]], slots: Sequence[int]) -> None:
        """Take over the pools of ``slots``; those of other slots belong to other processes."""
        self._stored = {
            slot: list(zip(state[slot]["lq"].unbind(), state[slot]["gt"].unbind(), strict=True))
            for slot in slots
            if slot in state
        }


def _pack(image: Tensor) -> Tensor:
    return (image * 255).round().byte().cpu()


def _unpack(images: Tensor, like: Tensor) -> Tensor:
    return images.to(like.device).to(like.dtype) / 255
