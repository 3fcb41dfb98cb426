"""Memory and arithmetic of a training step of DM-SR's phase dm at full size, counted in a run without numbers (fake tensors).

    python -m benchmarks.dmsr_memory --batch 1 --gt-size 512 --amp bf16

No weights and no GPU are needed. Weights, gradients, moments and averages are counted with the tensors of forward and backward
passes. What a GPU takes beside the tensors is not counted, nor is a perceptual loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.stablesr_memory import LivingTensors
from upsr.config.load import parse_options
from upsr.methods.build import autocast_dtype
from upsr.methods.dmsr.training import DistributionMatching


class Counts(NamedTuple):
    """Bytes that stay, bytes at most, and floating point operations of an iteration."""

    lasting: int
    peak: int
    flops: int


def counted(batch: int, gt_size: int, *, amp: str = "bf16", checkpointing: bool = True) -> Counts:
    """Those of one iteration of both players.

    Args:
        amp: as ``train.amp``.
        checkpointing: as ``train.activation_checkpointing``.
    """
    data: dict[str, Any] = {
        "name": "memory", "method": "dmsr", "datasets": {}, "path": {"allow_random_weights": True}, "timestep": 250,
        "train": {"total_iter": 1, "activation_checkpointing": checkpointing, "amp": amp},
    }  # fmt: skip
    dtype = autocast_dtype(amp)
    with FakeTensorMode(allow_non_fake_inputs=True):
        training = DistributionMatching.from_options(parse_options(data, "memory")).train()
        training.method.encoder.activation_checkpointing = checkpointing
        counter = LivingTensors()
        for tensor in training.parameters():
            counter.add(tensor)
            if tensor.requires_grad:  # two moments and the average; gradients are made by the backward pass
                for _ in range(3):
                    counter.bytes += tensor.untyped_storage().nbytes()
        lasting = counter.bytes
        given = {
            "gt": torch.zeros(batch, 3, gt_size, gt_size),
            "lq": torch.zeros(batch, 3, gt_size // 4, gt_size // 4),
            "iteration": torch.zeros(batch, dtype=torch.long),
        }
        generators = [torch.Generator() for _ in range(batch)]
        trained = {n: [p for p in own.network.parameters() if p.requires_grad] for n, own in training.players.items()}
        operations = FlopCounterMode(display=False)
        with operations, counter:
            for name in trained:
                _require_gradients(trained, of=name)
                with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                    losses = training(name, given, generators)
                losses["total"].backward()
                del losses
    return Counts(lasting, counter.peak, operations.get_total_flops())


def _require_gradients(trained: Mapping[str, Sequence[nn.Parameter]], of: str) -> None:
    """Only the parameters of one player."""
    for name, parameters in trained.items():
        for parameter in parameters:
            parameter.requires_grad_(name == of)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="samples of a process (1)")
    parser.add_argument("--gt-size", type=int, default=512, help="side of the ground truths (512)")
    parser.add_argument("--amp", choices=["fp32", "bf16"], default="bf16", help="(bf16)")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    given = parser.parse_args()
    found = counted(given.batch, given.gt_size, amp=given.amp, checkpointing=not given.no_checkpointing)
    gib = 1 << 30
    print(
        f"{given.batch} x {given.gt_size}, {given.amp}: lasting {found.lasting / gib:.2f} GiB, "
        f"at most {found.peak / gib:.2f} GiB, {found.flops / 1e12:.2f} TFLOP"
    )


if __name__ == "__main__":
    main()
