"""Losses in LOSS_REGISTRY: basicsr's pixel losses (MSELoss, L1Loss, ...), LPIPS, and wavelets where LPIPS cannot be had."""

from upsr.losses.first_available import FirstAvailableLoss
from upsr.losses.lpips_loss import LPIPSLoss
from upsr.losses.wavelet_loss import WaveletLoss

__all__ = ["FirstAvailableLoss", "LPIPSLoss", "WaveletLoss"]
