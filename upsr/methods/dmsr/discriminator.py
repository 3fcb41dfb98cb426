"""The discriminator of DM-SR: the first half of a small ControlNet judges latents beside the LR image and a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from upsr.archs.diffusers_library import diffusers

_ATTENDING, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


class ControlDiscriminator(nn.Module):
    """Judges a latent by the mean of the middle features of diffusers' ``ControlNetModel``; 16,944,273 parameters by default.

    diffusers begins the output convolution of the middle with zeros, which would hide the features; it is drawn again. Those
    of the other levels have no part in the result and are frozen.

    Args:
        latent_channels: of the latents.
        context_width: of the text's embedding.
        block_out_channels: width of each level; all levels but the last attend to the text.
        layers_per_block: residual blocks of each level.
        norm_num_groups: groups of the group norms.
        attention_head_dim: heads of the attention, under diffusers' name for them.
    """

    def __init__(
        self,
        latent_channels: int = 4,
        context_width: int = 1024,
        block_out_channels: Sequence[int] = (64, 128, 256, 256),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        attention_head_dim: int = 8,
    ) -> None:
        super().__init__()
        self.network: Any = diffusers("sd").ControlNetModel(
            in_channels=latent_channels,
            conditioning_channels=3,
            down_block_types=(_ATTENDING,) * (len(block_out_channels) - 1) + (_PLAIN,),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            attention_head_dim=attention_head_dim,
            cross_attention_dim=context_width,
        )
        self.network.controlnet_mid_block.reset_parameters()
        self.network.controlnet_down_blocks.requires_grad_(False)
        self.head = nn.Linear(block_out_channels[-1], 1)

    def forward(self, latent: Tensor, x_lr: Tensor, context: Tensor) -> Tensor:
        """(B,) logits in float32, large for latents of photos.

        Args:
            latent: (B, latent_channels, h, w).
            x_lr: (B, 3, 8h, 8w) in [-1, 1], the upsampled LR image.
            context: (B or 1, tokens, context_width), the embedding of the text.
        """
        t = torch.zeros(len(latent), dtype=torch.long, device=latent.device)
        context = context.expand(len(latent), -1, -1)
        _, features = self.network(latent, t, context, controlnet_cond=x_lr, return_dict=False)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits[:, 0].float()
