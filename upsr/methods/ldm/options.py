"""Options of LDM-SR."""

from __future__ import annotations

from pydantic import Field

from upsr.config.schema import CommonOptions


class LDMOptions(CommonOptions):
    """An option file of LDM-SR."""

    backbone: str | None = Field(
        None,
        description="Folder of diffusers' LDMSuperResolutionPipeline, or its user/name on the Hugging Face Hub; without it "
        "and with path.allow_random_weights the networks of the published one, with random weights.",
    )
    steps: int = Field(15, ge=1, le=1000, description="Network calls.")
    eta: float = Field(0.0, ge=0, le=1, description="Share of new noise in each step: 0 for DDIM, 1 for DDPM.")
