"""Latent codecs in ARCH_REGISTRY: autoencoders of diffusers, which is imported where one is built."""

from upsr.codecs.base import Codec
from upsr.codecs.kl import KLAutoencoder
from upsr.codecs.vq import VQAutoencoder

__all__ = ["Codec", "KLAutoencoder", "VQAutoencoder"]
