"""Losses in LOSS_REGISTRY: basicsr's pixel losses (MSELoss, L1Loss, ...) and LPIPS."""

from upsr.losses.lpips_loss import LPIPSLoss

__all__ = ["LPIPSLoss"]
