"""How far the networks are from the outputs of the released code, on any device: the vectors of tests/golden."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.golden_recipe import arr, filled, vector
from tests.test_golden_networks import golden_pipeline
from upsr.accelerate import accelerated
from upsr.archs import ATD, UNetModelSwin

TOLERANCE = 1e-4
"""Of tests/test_golden_networks.py, which holds on CPUs."""


@torch.inference_mode()
def differences(device: torch.device, *, large: bool) -> dict[str, float]:
    """Largest difference by vector.

    Args:
        large: with the full-size denoiser and the larger vectors of g.
    """
    return {name: float((own.cpu() - expected).abs().max()) for name, own, expected in _outputs(device, large)}


def _outputs(device: torch.device, large: bool) -> Iterator[tuple[str, Tensor, Tensor]]:
    atd = accelerated(filled(ATD()).to(device))
    sizes = {"c4": (8, 10), "d7": (32, 48), "a13": (64, 64)}
    for tag, size in sizes.items() if large else [("c4", sizes["c4"])]:
        file = f"atd_{size[0]}x{size[1]}.npz"
        yield file, atd(arr(f"in:atd.{tag}", (1, 3, *size), "uniform").to(device)), vector(file)
    if not large:
        return
    unet = accelerated(filled(UNetModelSwin()).to(device))
    for layout in (torch.contiguous_format, torch.channels_last):
        unet.to(memory_format=layout)
        inputs = arr("in:unet.x", (1, 48, 64, 64)), torch.tensor([3]), 0.5 * arr("in:unet.lq", (1, 96, 64, 64))
        name = f"unet_64x64_t3.npz, {str(layout).removeprefix('torch.')}"
        yield name, unet(*(x.to(device) for x in inputs)), vector("unet_64x64_t3.npz")
    inputs = arr("in:unet.x2", (2, 48, 64, 128)), torch.tensor([0, 4]), 0.5 * arr("in:unet.lq2", (2, 96, 64, 128))
    out = unet(*(x.to(device) for x in inputs))
    yield "unet_64x128_t04.npz", out[:, :, ::4, ::4], vector("unet_64x128_t04.npz", "out_sub")
    model = golden_pipeline(unet, atd)
    noise = model.codec.encode(arr("in:pipe.noise", (1, 3, 256, 256))).to(device)
    restored = model.restore(arr("in:atd.a13", (1, 3, 64, 64), "uniform").to(device), lambda k: noise)
    yield "pipeline_64.npz", 2 * restored - 1, vector("pipeline_64.npz", "out_unclamped")
