"""Faster forms of networks for inference: exact but for rounding on CPUs, lower precision, ``torch.compile``."""

from upsr.accelerate.exchange import accelerated

__all__ = ["accelerated"]
