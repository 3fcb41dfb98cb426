"""The VQ autoencoder of latent diffusion (Rombach et al., CVPR 2022), which ResShift works in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upsr.archs.diffusers_library import diffusers
from upsr.codecs.base import Codec
from upsr.codecs.ldm_layout import in_ldm_layout
from upsr.compat import ARCH_REGISTRY

_DISTANCES = 1 << 26
"""Distances to codes that are held at once."""


@ARCH_REGISTRY.register()
class VQAutoencoder(Codec):
    """diffusers' ``VQModel``; the defaults are VQ-f4 with 55,322,782 parameters.

    The latent is that before the quantisation, with a scale factor of 1. Decoding quantises it first, with gradients that pass
    the quantisation unchanged. Weight files may have the names of diffusers or those of latent diffusion, which the released
    autoencoder has.

    Args:
        ch: width of the first level.
        ch_mult: width of each level in units of ``ch``; every level but the last halves the sides.
        num_res_blocks: residual blocks of each level of the encoder; the decoder has one more.
        z_channels: channels of the latent.
        n_embed: codes.
    """

    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 4),
        num_res_blocks: int = 2,
        z_channels: int = 3,
        n_embed: int = 8192,
    ) -> None:
        super().__init__()
        levels = len(ch_mult)
        self.network = diffusers().VQModel(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(ch * mult for mult in ch_mult),
            layers_per_block=num_res_blocks,
            latent_channels=z_channels,
            num_vq_embeddings=n_embed,
        )
        self.factor, self.channels = 2 ** (levels - 1), z_channels
        self.values_per_pixel = 6 * ch

    def encode(self, image: Tensor) -> Tensor:
        """See :meth:`Codec.encode`."""
        return self.network.encode(image).latents.contiguous()

    def decode(self, latent: Tensor) -> Tensor:
        """See :meth:`Codec.decode`."""
        return decoded(self.network, latent)

    def other_layouts(self) -> list[dict[str, Tensor]]:
        """The state dict as diffusers names it, and as latent diffusion does; its tensors are views of the parameters."""
        own = self.network.state_dict()
        return [own, in_ldm_layout(own)]


def decoded(network: Any, latent: Tensor) -> Tensor:
    """The image that diffusers' ``VQModel`` makes of a latent, which it quantises first, in bounded memory."""
    codes = network.quantize.n_e
    rows = max(_DISTANCES // (codes * len(latent) * latent.shape[-1]), 1)
    parts = [network.quantize(part)[0] for part in latent.split(rows, dim=2)]
    image: Tensor = network.decoder(network.post_quant_conv(torch.cat(parts, dim=2)))
    return image
