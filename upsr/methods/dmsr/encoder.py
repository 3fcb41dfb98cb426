"""The encoder of DM-SR: the autoencoder's, with the timestep in each of its levels (Sec. 3.2 and App. A.1)."""

from __future__ import annotations

import copy
import importlib
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_UNIT = 500.0
"""Timesteps per unit of the scalar embedding: the range of the estimator."""

_SINES = 320


class TimestepEncoder(nn.Module):
    """Maps an upsampled LR image to a latent among the noisy ones of a timestep.

    The output of each level is raised by a linear function of the timestep. These begin at zero, so the first output is the mean
    of the autoencoder's posterior.

    Args:
        vae: ``AutoencoderKL``, of which the encoder is copied.
        embedding: input of the linear functions: t / 500, or 320 sines and cosines of t.

    Attributes:
        activation_checkpointing: activations of the levels are computed again in the backward pass.
    """

    def __init__(self, vae: Any, embedding: Literal["scalar", "sinusoidal"] = "scalar") -> None:
        super().__init__()
        self.encoder = copy.deepcopy(vae.encoder).requires_grad_(True)
        # Older autoencoders have the layer; others end with the moments.
        self.quant_conv = nn.Identity() if vae.quant_conv is None else copy.deepcopy(vae.quant_conv)
        self.quant_conv.requires_grad_(True)
        inputs = 1 if embedding == "scalar" else _SINES
        self.injection = nn.ModuleList(nn.Linear(inputs, width) for width in vae.config.block_out_channels)
        for parameter in self.injection.parameters():
            nn.init.zeros_(parameter)
        self.scaling_factor = vae.config.scaling_factor
        self.sinusoidal = embedding == "sinusoidal"
        self.activation_checkpointing = False

    def forward(self, image: Tensor, t: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] and (B,) timesteps -> (B, 4, H/8, W/8) scaled latents."""
        embedding = self._embedded(t, image.dtype)
        x = self.encoder.conv_in(image)
        for level, linear in zip(self.encoder.down_blocks, self.injection, strict=True):
            x = self._run(level, x) + linear(embedding)[:, :, None, None]
        x = self._run(self.encoder.mid_block, x)
        x = self.encoder.conv_out(self.encoder.conv_act(self.encoder.conv_norm_out(x)))
        mean: Tensor = self.quant_conv(x).chunk(2, dim=1)[0]
        return mean * self.scaling_factor

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            result: Tensor = checkpoint(block, x, use_reentrant=False)
            return result
        return block(x)

    def _embedded(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        if not self.sinusoidal:
            return (t / _UNIT)[:, None].to(dtype)
        embedded = importlib.import_module("diffusers.models.embeddings").get_timestep_embedding
        sines: Tensor = embedded(t, _SINES, flip_sin_to_cos=True, downscale_freq_shift=0)
        return sines.to(dtype)
