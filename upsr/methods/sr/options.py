"""Options of a plain SR network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upsr.methods.options import NetworkOptions


class SROptions(NetworkOptions):
    """An option file of a plain SR network, stage one of UPSR."""

    scale: Literal[1, 2, 3, 4, 8] = Field(  # type: ignore[assignment]
        4, description="Upscaling factor; 3 for networks of AnySR and SpandrelSR."
    )
