"""The pass that makes a network faster: modules of a frozen copy are exchanged for their twins."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import nn

from upsr.accelerate.convolution import Conv3x3, FirstConv, ImageConv, TransposedDoubling
from upsr.accelerate.networks import FastCategoryAttention, FastUNet, FastWindowAttention, FastWindowAttentionOfG
from upsr.accelerate.norm import ExactGroupNorm
from upsr.accelerate.packed import PackedLinear, PackedPointwise, can_pack
from upsr.accelerate.precision import lower
from upsr.accelerate.twin import Twin, shallow_copy
from upsr.archs.atd import ATD, CategoryAttention, ShiftedWindowAttention
from upsr.archs.compact import CompactSR
from upsr.archs.layers import ConditionedConv, DoublingConv, GroupNorm32, PointwiseConv
from upsr.archs.swin_unet import SwinUNet, WindowAttention
from upsr.archs.unet_upsr import UNetModelSwin

Network = TypeVar("Network", bound=nn.Module)

_NETWORKS = (SwinUNet, ATD, CompactSR)
"""Networks whose twins are tested; others stay as they are."""

_TWINS: dict[type[nn.Module], type[Twin]] = {
    nn.Linear: PackedLinear,
    PointwiseConv: PackedPointwise,
    ConditionedConv: FirstConv,
    DoublingConv: TransposedDoubling,
    GroupNorm32: ExactGroupNorm,
    WindowAttention: FastWindowAttention,
    ShiftedWindowAttention: FastWindowAttentionOfG,
    CategoryAttention: FastCategoryAttention,
    UNetModelSwin: FastUNet,
}


def accelerated(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """The network for inference: the same up to rounding, sooner.

    The modules of the U-Nets, of ATD and of CompactSR are exchanged for their twins (docs/performance.md); any network may
    compute in another type.

    Args:
        network: stays as it is. Its parameters are shared and must not change afterwards.
        dtype: see :func:`upsr.accelerate.precision.lower`.

    Returns:
        A copy in evaluation mode whose parameters need no gradients; the network itself where nothing is to be done.
    """
    if dtype == torch.float32 and not _has_plain_parts(network):
        return network
    fast = _frozen_copy(network)
    for part in [part for part in fast.modules() if isinstance(part, _NETWORKS)]:
        for module in part.modules():
            module.__class__ = _twin_of(module)
    lower(fast, dtype, getattr(network, "full_precision", ()))
    for module in fast.modules():
        if isinstance(module, Twin):
            module.packs = can_pack(module._parameters.get("weight"))
    return fast


def _has_plain_parts(network: nn.Module) -> bool:
    modules = list(network.modules())
    return any(isinstance(m, _NETWORKS) for m in modules) and not any(isinstance(m, Twin) for m in modules)


def _frozen_copy(network: Network) -> Network:
    """Module by module: ``copy.deepcopy`` takes 0.15 s for a network of a thousand modules, this a tenth."""
    with torch.inference_mode(False):  # the copy may be used outside inference mode too
        frozen = {id(p): nn.Parameter(p.detach(), False) for p in network.parameters()}
    copies: dict[int, Any] = {}

    def copied(module: nn.Module) -> Any:
        if id(module) not in copies:
            copies[id(module)] = new = shallow_copy(module)
            new._parameters = {key: None if p is None else frozen[id(p)] for key, p in module._parameters.items()}
            new._modules = {key: None if part is None else copied(part) for key, part in module._modules.items()}
        return copies[id(module)]

    return cast(Network, copied(network).eval())


def _twin_of(module: nn.Module) -> type[nn.Module]:
    """The class of the module's twin, or its own."""
    kind = type(module)
    if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
        if (module.kernel_size, module.padding, module.groups) == ((3, 3), (1, 1), 1):
            return ImageConv if module.out_channels <= 3 else Conv3x3
        return kind
    return _TWINS.get(kind, kind)
