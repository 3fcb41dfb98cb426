"""Restoring images of any size with a trained model."""

from upsr.inference.restore import restore

__all__ = ["restore"]
