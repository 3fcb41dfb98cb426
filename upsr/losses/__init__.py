"""Losses in LOSS_REGISTRY: basicsr's pixel losses (MSELoss, L1Loss, ...), LPIPS of images and latents, wavelets, GridLoss."""

from upsr.losses.first_available import FirstAvailableLoss
from upsr.losses.grid_loss import GridLoss
from upsr.losses.latent_lpips import LatentLPIPSLoss
from upsr.losses.lpips_loss import LPIPSLoss
from upsr.losses.vgg_loss import VGGLoss
from upsr.losses.wavelet_loss import WaveletLoss

__all__ = ["FirstAvailableLoss", "GridLoss", "LPIPSLoss", "LatentLPIPSLoss", "VGGLoss", "WaveletLoss"]
