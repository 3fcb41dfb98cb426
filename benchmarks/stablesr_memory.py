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
from upsr.methods.stablesr.method import StableSR


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


def counted(side: int, dtype: torch.dtype, *, guidance: float = 1.0, device: str = "cuda") -> tuple[int, int]:
    """Bytes of the weights, and the most that lives at once while an image is restored.

    Args:
        side: of the LR image.
        device: that the tensors pretend to be on.
    """
    data = {
        "name": "memory", "method": "stablesr", "datasets": {}, "sampler": {"steps": 2}, "latent": "mode",
        "path": {"allow_random_weights": True},
    }  # fmt: skip
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device(device):
            method = StableSR.from_options(parse_options(data, "memory")).eval()
        method = method.for_inference(dtype).adjusted(guidance=guidance)
        counter = LivingTensors()
        for parameter in method.parameters():
            counter.add(parameter)
        weights = counter.bytes
        lq = torch.zeros(1, 3, side, side, device=device)
        shape = method.facts.noise_shape(side, side)
        with counter:
            method.restore(lq, lambda k: torch.zeros(1, *shape, device=device))
    return weights, counter.peak


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="of the LR image (128)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16", help="(float16)")
    parser.add_argument("--guidance", type=float, default=1.0, help="(1: none)")
    given = parser.parse_args()
    weights, peak = counted(given.side, getattr(torch, given.dtype), guidance=given.guidance)
    mib = 1 << 20
    print(
        f"{given.side} -> {4 * given.side}, {given.dtype}: weights {weights / mib:.0f} MiB, at most {peak / mib:.0f} MiB"
    )


if __name__ == "__main__":
    main()
