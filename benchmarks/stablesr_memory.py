"""Memory of a StableSR restoration, counted: tensors that live at once in a run without numbers (torch's fake tensors).

    python -m benchmarks.stablesr_memory --side 128 --dtype float16

No weights and no GPU are needed. What a GPU takes beside the tensors (its context, workspaces of its libraries, fragmentation)
is not counted.
"""

from __future__ import annotations

import argparse
import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upsr.config.load import parse_options


class LivingTensors(TorchDispatchMode):
    """Counts the bytes of all storages that operators have made and that are still referred to.

    Attributes:
        bytes, peak: now, and the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage, once, for as long as it lives."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.bytes -= size


def main() -> None:
    """Print the bytes of the weights, and the most that lives at once while restoring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="of the LR image (128)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16", help="(float16)")
    parser.add_argument("--guidance", type=float, default=1.0, help="(1: none)")
    parser.add_argument("--device", default="cuda", help="that the tensors pretend to be on (cuda)")
    given = parser.parse_args()
    data = {
        "name": "memory", "method": "stablesr", "datasets": {}, "sampler": {"steps": 2}, "latent": "mode",
        "path": {"allow_random_weights": True},
    }  # fmt: skip
    from upsr.methods.stablesr.method import StableSR
    from upsr.tiling.scratch import Scratch
    from upsr.tiling.tiles import TilePlan

    dtype = getattr(torch, given.dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device(given.device):
            method = StableSR.from_options(parse_options(data, "memory")).eval()
        method = method.to(given.device).for_inference(dtype).adjusted(guidance=given.guidance)
        counter = LivingTensors()
        weights = sum(p.numel() * p.element_size() for p in method.parameters())
        counter.bytes = counter.peak = weights
        for parameter in method.parameters():
            counter._known[parameter.untyped_storage()] = 0
        lq = torch.zeros(1, 3, given.side, given.side, device=given.device)
        shape = method.facts.noise_shape(given.side, given.side)
        plan = TilePlan(None, Scratch(lq.device))
        with counter:
            out = method.restore(lq, lambda k: torch.zeros(1, *shape, device=given.device), tiles=plan)
    mib = 1 << 20
    print(f"{given.side} -> {out.shape[-1]}, {given.dtype}: weights {weights / mib:.0f} MiB, at most {counter.peak / mib:.0f} MiB")


if __name__ == "__main__":
    main()
