"""The training-pair pool, which puts pairs of different degradations into one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upsr.rng import numpy_generator


class _Pair(NamedTuple):
    lq: Tensor
    gt: Tensor
    name: str


class PairPool:
    """Keeps earlier pairs and trades new ones for them.

    Real-ESRGAN keeps one pool in each process, shuffles it at every step, and replaces the pairs it takes: a stored pair
    leaves with probability batch / pool size at each step. Here every place ("slot") of the global batch has a pool of its
    own, of pool size / batch pairs, from which one is drawn at every step. A pair leaves with the same probability, and
    what a slot gets does not depend on how slots are spread over processes.

    Pairs are kept as 8-bit images where they come from, which the crops and the degradation's rounded output are to begin with.

    Args:
        pairs_per_slot: pool of one slot; 0 passes pairs through.
        round_lq: LR images are multiples of 1/255 and kept in 8 bit; otherwise they are kept as they are.
    """

    def __init__(self, pairs_per_slot: int, *, round_lq: bool = True) -> None:
        self.pairs_per_slot = pairs_per_slot
        self.round_lq = round_lq
        self._stored: dict[int, list[_Pair]] = {}

    def exchange(
        self, lq: Tensor, gt: Tensor, names: Sequence[str], *, slots: Sequence[int], keys: Sequence[int | str]
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Store a batch and return another of the same shape.

        While a slot's pool is not full its new pair is stored and also returned.

        Args:
            lq, gt: (B, C, h, w) and (B, C, H, W) in [0, 1], multiples of 1/255; of lq see ``round_lq``.
            names: of the files they come from, returned with the pairs.
            slots: place of each sample in the global batch.
            keys: identity of the step.
        """
        if self.pairs_per_slot == 0:
            return lq, gt, list(names)
        pairs = [
            self._exchange_one(slot, _Pair(self._pack_lq(lq[i]), _pack(gt[i]), names[i]), keys)
            for i, slot in enumerate(slots)
        ]
        lqs, gts = torch.stack([pair.lq for pair in pairs]), torch.stack([pair.gt for pair in pairs])
        return _unpack(lqs, lq.dtype), _unpack(gts, gt.dtype), [pair.name for pair in pairs]

    def _exchange_one(self, slot: int, pair: _Pair, keys: Sequence[int | str]) -> _Pair:
        stored = self._stored.setdefault(slot, [])
        if len(stored) < self.pairs_per_slot:
            stored.append(pair)
            return pair
        place = int(numpy_generator(*keys, "pool", slot).integers(self.pairs_per_slot))
        old, stored[place] = stored[place], pair
        return old

    def _pack_lq(self, lq: Tensor) -> Tensor:
        return _pack(lq) if self.round_lq else lq.clone()

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """The stored pairs by slot: uint8 tensors on the CPU, float32 for LR images that are not rounded, and names."""
        return {
            slot: {
                "lq": torch.stack([pair.lq for pair in pairs]).cpu(),
                "gt": torch.stack([pair.gt for pair in pairs]).cpu(),
                "names": [pair.name for pair in pairs],
            }
            for slot, pairs in self._stored.items()
        }

    def load_state_dict(
        self,
        state: Mapping[int, Mapping[str, Any]],
        slots: Sequence[int],
        device: torch.device,
        *,
        lq_shape: tuple[int, ...],
        gt_shape: tuple[int, ...],
    ) -> int:
        """Take over the pools of ``slots``; those of other slots belong to other processes.

        LR images may come from a pool with another ``round_lq``.

        Args:
            lq_shape, gt_shape: (C, h, w) and (C, H, W) of the pairs that will be exchanged; others are left out.

        Returns:
            Number of pairs that were left out, for their shape or because the pool is smaller now.
        """

        def images(tensor: Tensor) -> list[Tensor]:
            return [image.to(device).clone() for image in tensor]  # a view would keep the whole file alive

        self._stored = {}
        left_out = 0
        for slot in slots:
            if slot not in state:
                continue
            lq, gt, names = (state[slot][key] for key in ("lq", "gt", "names"))
            fits = lq.shape[1:] == lq_shape and gt.shape[1:] == gt_shape
            kept = min(len(names), self.pairs_per_slot) if fits else 0
            left_out += len(names) - kept
            if kept:
                self._stored[slot] = [
                    _Pair(self._pack_lq(_unpack(lq, torch.float32)), gt, name)
                    for lq, gt, name in zip(images(lq[:kept]), images(gt[:kept]), names[:kept], strict=True)
                ]
        return left_out


def _pack(image: Tensor) -> Tensor:
    return (image * 255).round().byte()


def _unpack(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)
