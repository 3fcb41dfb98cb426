"""The pass that makes a network faster: modules of a frozen copy are exchanged for their twins."""

from __future__ import annotations

from collections.abc import Iterator
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
from upsr.archs.spandrel import SpandrelSR
from upsr.archs.swin_unet import SwinUNet, WindowAttention
from upsr.archs.unet_upsr import UNetModelSwin

Network = TypeVar("Network", bound=nn.Module)

_NETWORKS = (SwinUNet, ATD, CompactSR)
"""Networks all of whose modules have twins; others stay as they are, but for :data:`_FOREIGN`."""

_FOREIGN = {"ESRGAN", "RealESRGAN Compact", "SPAN", "PLKSR", "MoSR"}
"""spandrel's names of networks whose 3 x 3 convolutions are exchanged. Others have hardly any, or fail with channels last."""

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

    The modules of the U-Nets, of ATD and of CompactSR are exchanged for their twins (docs/performance.md), and the convolutions
    of some networks that spandrel reads; any network may compute in another type.

    Args:
        network: stays as it is. Its parameters are shared and must not change afterwards.
        dtype: see :func:`upsr.accelerate.precision.lower`.

    Returns:
        A copy in evaluation mode whose parameters need no gradients; the network itself where nothing is to be done.
    """
    if dtype == torch.float32 and not _has_plain_parts(network):
        return network
    fast = _frozen_copy(network)
    for module in list(_to_exchange(fast)):
        module.__class__ = _twin_of(module)
    lower(fast, dtype, getattr(network, "full_precision", ()))
    for module in fast.modules():
        if isinstance(module, Twin):
            module.packs = can_pack(module._parameters.get("weight"))
    return fast


def _has_plain_parts(network: nn.Module) -> bool:
    return any(True for _ in _to_exchange(network)) and not any(isinstance(m, Twin) for m in network.modules())


def _to_exchange(network: nn.Module) -> Iterator[nn.Module]:
    """Modules that have a twin, or may have one."""
    for part in network.modules():
        if isinstance(part, _NETWORKS):
            yield from part.modules()
        elif isinstance(part, SpandrelSR) and part.architecture in _FOREIGN:
            yield from (module for module in part.modules() if type(module) is nn.Conv2d)


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
        return _twin_of_convolution(module)
    return _TWINS.get(kind, kind)


def _twin_of_convolution(conv: nn.Conv2d) -> type[nn.Module]:
    form = conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    if form != ((3, 3), (1, 1), (1, 1), 1, "zeros") or conv.bias is None or conv.stride not in ((1, 1), (2, 2)):
        return nn.Conv2d
    return ImageConv if conv.out_channels <= 3 and conv.stride == (1, 1) else Conv3x3
