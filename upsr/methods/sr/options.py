"""Options of a plain SR network."""

from __future__ import annotations

from upsr.methods.options import NetworkOptions


class SROptions(NetworkOptions):
    """An option file of a plain SR network, stage one of UPSR."""
