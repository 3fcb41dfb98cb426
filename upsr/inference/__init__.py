"""Restoring images of any size with a trained model."""

from upsr.inference.restore import ModelRestorer, Restorer, restore

__all__ = ["ModelRestorer", "Restorer", "restore"]
