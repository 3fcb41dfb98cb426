"""Controllable feature wrapping (StableSR, Sec. 3.2): encoder features of the LR image enter the decoder of the autoencoder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from upsr.archs.diffusers_library import diffusers
from upsr.codecs.kl import decoded_image, scaled_latent
from upsr.methods.stablesr.hooks import Hooked

_EPS = 1e-6


class FusionBlock(nn.Module):
    """Fuses features of encoder and decoder: residual block, dense blocks, residual block.

    Args:
        channels: of either features.
        num_rrdb: residual-in-residual dense blocks.
        growth: channels that each of their layers adds.
        groups: of the group norms.
    """

    def __init__(self, channels: int, num_rrdb: int = 2, growth: int = 32, groups: int = 32) -> None:
        super().__init__()
        diffusers()
        from basicsr.archs.rrdbnet_arch import RRDB

        resnet = importlib.import_module("diffusers.models.resnet").ResnetBlock2D
        plain = {"out_channels": channels, "temb_channels": None, "eps": _EPS, "groups": groups}
        self.first = resnet(in_channels=2 * channels, **plain)
        self.dense = nn.Sequential(*(RRDB(channels, growth) for _ in range(num_rrdb)))
        self.last = resnet(in_channels=channels, **plain)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """(B, channels, H, W) each -> the same shape."""
        # A channels-last input of frozen networks crashes the norm's backward pass on CPUs (torch 2.11).
        both = torch.cat([encoded, decoded], dim=1).contiguous()
        added: Tensor = self.last(self.dense(self.first(both, None)), None)
        return added


class CFW(nn.Module):
    """Fusion blocks by the level of the autoencoder; 44,393,728 parameters for the one of Stable Diffusion.

    Args:
        widths: channels of the autoencoder's levels, finest first.
        levels: that have a block.
        num_rrdb, growth, groups: of :class:`FusionBlock`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        levels: Sequence[int] = (1, 2),
        num_rrdb: int = 2,
        growth: int = 32,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.fusion = nn.ModuleDict(
            {str(level): FusionBlock(widths[level], num_rrdb, growth, groups) for level in levels}
        )


class WrappedAutoencoder(Hooked):
    """An autoencoder of diffusers and its fusion blocks, by forward hooks on the resampling layers at the ends of the levels.

    Args:
        vae: ``AutoencoderKL``; frozen by the caller.
        cfw: ``None``: decodes as the autoencoder does.
    """

    NETWORK = "vae"

    def __init__(self, vae: nn.Module, cfw: CFW | None) -> None:
        super().__init__()
        self.vae: Any = vae
        self.cfw = cfw
        self._encoded: dict[str, Tensor] = {}
        self._fused: tuple[dict[str, Tensor], float] | None = None
        self.hook()

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """The posterior's mean, or with ``noise`` (standard normal, the latent's shape) a sample, scaled.

        Args:
            image: (B, 3, H, W) in [-1, 1].
        """
        latent = scaled_latent(self.vae, image, noise)
        self._encoded = {}
        return latent

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The encoder's features of an image at the levels that have a fusion block."""
        self.vae.encoder(image)
        features, self._encoded = self._encoded, {}
        return features

    def decode(self, latent: Tensor, image: Tensor, w: float) -> Tensor:
        """(B, 3, H, W) in about [-1, 1], not clamped: decoder features are F_d + w Fuse(F_e, F_d).

        Args:
            latent: scaled.
            image: (B, 3, H, W) in [-1, 1], the upsampled LR image; not used without fusion blocks or at ``w`` 0.
        """
        if self.cfw is not None and w:
            with torch.no_grad():
                self._fused = self.features(image), w
        try:
            return decoded_image(self.vae, latent)
        finally:
            self._fused = None

    def parts(self) -> Mapping[str, nn.Module | None]:
        """See :meth:`Hooked.parts`."""
        return {"vae": self.vae, "cfw": self.cfw}

    def hooks(self) -> Iterator[Any]:
        """See :meth:`Hooked.hooks`: what enters the down-sampling of a level is kept, what enters its up-sampling is fused."""
        for level in self.cfw.fusion if self.cfw is not None else ():
            down = self.vae.encoder.down_blocks[int(level)].downsamplers[0]
            up = self.vae.decoder.up_blocks[-1 - int(level)].upsamplers[0]

            def keep(_: nn.Module, inputs: tuple[Any, ...], level: str = level) -> None:
                self._encoded[level] = inputs[0]

            def fuse(_: nn.Module, inputs: tuple[Any, ...], level: str = level) -> tuple[Any, ...] | None:
                if self._fused is None or self.cfw is None:
                    return None
                (features, w), decoded = self._fused, inputs[0]
                return decoded + w * self.cfw.fusion[level](features[level], decoded), *inputs[1:]

            yield down.register_forward_pre_hook(keep)
            yield up.register_forward_pre_hook(fuse)
