"""The KL autoencoder of Stable Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from upsr.archs.diffusers_library import diffusers
from upsr.codecs.base import Codec
from upsr.compat import ARCH_REGISTRY
from upsr.errors import MissingFileError, UpsrError


@ARCH_REGISTRY.register()
class KLAutoencoder(Codec):
    """diffusers' ``AutoencoderKL`` with its weights; latents are multiplied by its ``scaling_factor``.

    Args:
        path: folder of diffusers: of the autoencoder, or of a pipeline with the autoencoder in ``vae``.

    Raises:
        UpsrError: there is no such folder, or diffusers cannot load it.
    """

    carries_weights = True

    def __init__(self, path: str) -> None:
        super().__init__()
        folder = Path(path)
        folder = folder / "vae" if (folder / "vae").is_dir() else folder
        if not (folder / "config.json").is_file():
            raise MissingFileError(
                f"{folder}: no autoencoder of diffusers; a folder with config.json and weights is needed", folder
            )
        library = diffusers()
        try:
            self.network = library.AutoencoderKL.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # damaged folders fail in many ways
            reason = " ".join(str(error).split())[:160]
            raise UpsrError(f"{folder}: diffusers cannot load it ({reason})") from None
        widths = self.network.config.block_out_channels
        self.factor, self.channels = 2 ** (len(widths) - 1), self.network.config.latent_channels
        self.values_per_pixel = 6 * widths[0]

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """The posterior's mean, or with ``noise`` (standard normal, the latent's shape) a sample; see :meth:`Codec.encode`."""
        return scaled_latent(self.network, image, noise)

    def decode(self, latent: Tensor) -> Tensor:
        """See :meth:`Codec.decode`."""
        return decoded_image(self.network, latent)


def scaled_latent(vae: Any, image: Tensor, noise: Tensor | None = None) -> Tensor:
    """The latent of an image by ``AutoencoderKL``, see :meth:`KLAutoencoder.encode`."""
    posterior = vae.encode(image).latent_dist
    latent: Tensor = posterior.mean if noise is None else posterior.mean + posterior.std * noise
    # Channels-last on CPUs, where the backward pass of a trainable group norm behind it would crash torch 2.11.
    return (latent * vae.config.scaling_factor).contiguous()


def decoded_image(vae: Any, latent: Tensor) -> Tensor:
    """The image of a scaled latent by ``AutoencoderKL``, see :meth:`Codec.decode`."""
    image: Tensor = vae.decode(latent / vae.config.scaling_factor).sample
    return image
