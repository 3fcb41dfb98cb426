"""Spatial feature transforms on the residual branches of a frozen U-Net (StableSR, Eq. 1)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.errors import UpsrError
from upsr.methods.stablesr.encoder import TimeAwareEncoder
from upsr.methods.stablesr.hooks import Hooked

_GROUPS = 32


class SFTLayer(nn.Module):
    """h (1 + gamma) + beta, with gamma and beta from a feature map; the released form normalises h first, Eq. 1 does not.

    Args:
        channels: of h.
        condition_channels: of the feature map.
        hidden_channels: of the convolution that gamma and beta share.
        norm: ``group``: h is group-normalised, 32 groups; ``none``: as Eq. 1.
    """

    def __init__(
        self,
        channels: int,
        condition_channels: int,
        hidden_channels: int = 128,
        norm: Literal["group", "none"] = "group",
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels) if norm == "group" else nn.Identity()
        self.shared = nn.Conv2d(condition_channels, hidden_channels, 3, padding=1)
        self.scale = nn.Conv2d(hidden_channels, channels, 3, padding=1)
        self.shift = nn.Conv2d(hidden_channels, channels, 3, padding=1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape; ``condition`` is (B, condition_channels, H, W)."""
        shared = F.relu(self.shared(condition))
        # A channels-last h of a frozen layer crashes the norm's backward pass on CPUs (torch 2.11).
        normalised = self.norm(h.contiguous())
        return normalised * (1 + self.scale(shared)) + self.shift(shared)


class Conditioning(nn.Module):
    """The trained networks of stage one: the time-aware encoder and an SFT layer for each residual block of a U-Net.

    Args:
        encoder: gives the feature maps.
        sft: SFT layers by the residual block's path in the U-Net, with ``_`` for ``.``.

    Attributes:
        activation_checkpointing: in training, the U-Net's activations are computed again for the gradients.
    """

    def __init__(self, encoder: TimeAwareEncoder, sft: nn.ModuleDict) -> None:
        super().__init__()
        self.encoder, self.sft = encoder, sft
        self.activation_checkpointing = False


def sft_layers(unet: nn.Module, condition_channels: int, **arguments: Any) -> nn.ModuleDict:
    """New SFT layers for all residual blocks of a U-Net of diffusers.

    Args:
        arguments: of :class:`SFTLayer`.
    """
    blocks = _residual_blocks(unet)
    if odd := [name for name, block in blocks.items() if block.out_channels % _GROUPS]:
        raise UpsrError(f"backbone: {odd[0]} has {blocks[odd[0]].out_channels} channels, no multiple of {_GROUPS}")
    layers = {name: SFTLayer(block.out_channels, condition_channels, **arguments) for name, block in blocks.items()}
    return nn.ModuleDict(layers)


class ModulatedUNet(Hooked):
    """A U-Net of diffusers whose residual branches pass through SFT layers, by forward hooks on their last convolutions.

    The U-Net's own code and the names of its parameters stay as they are.

    Args:
        unet: ``UNet2DConditionModel``; frozen by the caller.
        conditioning: its SFT layers are those of :func:`sft_layers`.
    """

    NETWORK = "unet"

    def __init__(self, unet: nn.Module, conditioning: Conditioning) -> None:
        super().__init__()
        self.unet: Any = unet
        self.conditioning = conditioning
        self._features: dict[tuple[int, int], Tensor] = {}
        self.hook()

    def forward(self, x: Tensor, t: Tensor, context: Tensor, features: Sequence[Tensor]) -> Tensor:
        """The U-Net's output.

        Args:
            x: (B, C, h, w).
            t: (B,) timesteps.
            context: (B, tokens, width) embedding of the prompt.
            features: maps by resolution; every residual block takes the one of its size.
        """
        if self.conditioning.activation_checkpointing and not self.unet.is_gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        # Checkpointed activations are computed again in the backward pass, hooks included: the maps stay until the next call.
        self._features = {(feature.shape[-2], feature.shape[-1]): feature for feature in features}
        output: Tensor = self.unet(x, t, context).sample
        if not torch.is_grad_enabled():
            self._features = {}
        return output

    def parts(self) -> Mapping[str, nn.Module | None]:
        """See :meth:`Hooked.parts`."""
        return {"unet": self.unet, "conditioning": self.conditioning}

    def hooks(self) -> Iterator[Any]:
        """See :meth:`Hooked.hooks`: on the last convolution of each residual block, whose output is the branch."""
        for name, block in _residual_blocks(self.unet).items():
            layer = self.conditioning.sft[name]

            def modulate(_: nn.Module, __: Any, branch: Tensor, layer: nn.Module = layer) -> Tensor | None:
                if not self._features:  # the U-Net is at work for another
                    return None
                return layer(branch, self._features[branch.shape[-2], branch.shape[-1]])

            yield block.conv2.register_forward_hook(modulate)


def _residual_blocks(unet: nn.Module) -> dict[str, Any]:
    kind = importlib.import_module("diffusers.models.resnet").ResnetBlock2D
    return {name.replace(".", "_"): module for name, module in unet.named_modules() if isinstance(module, kind)}
