"""The networks of ``upsr/archs`` as they are, eager and in float32: what their faster forms are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from upsr.archs.contracts import DenoisingNetwork, SRNetwork
from upsr.compat import ARCH_REGISTRY
from upsr.config.components import build
from upsr.config.schema import Component
from upsr.methods.upsr.method import UPSR


def plain_of(component: Component, network: nn.Module) -> Any:
    """A network of the options with the weights of another one, in torch's usual memory format."""
    plain = build(ARCH_REGISTRY, component)
    plain.load_state_dict(network.state_dict())
    return plain.to(next(network.parameters()).device).eval().requires_grad_(False)


@torch.inference_mode()
def plain_restore(method: UPSR, denoiser: DenoisingNetwork, g: SRNetwork, lq: Tensor, noise: Tensor) -> Tensor:
    """A restoration of whole images, sides multiples of 64: (B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w) in [0, 1].

    Args:
        method: gives the schedule and the settings only.
        noise: (B, 48, h, w), standard normal.
    """
    method = method.replaced("denoiser", denoiser)
    cond = method.condition_of(method.upsample(lq), 2 * g(lq) - 1)
    return (method.generate(cond, lambda k: noise).clamp(-1, 1) + 1) / 2
