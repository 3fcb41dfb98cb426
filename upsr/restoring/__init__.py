"""Restoring images of any size with a trained model."""

from upsr.restoring.restore import ModelRestorer, Restorer, restore

__all__ = ["ModelRestorer", "Restorer", "restore"]
