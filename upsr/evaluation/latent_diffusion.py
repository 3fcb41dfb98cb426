"""LDM-SR from a folder of diffusers, to be measured."""

from __future__ import annotations

from pathlib import Path

import torch

from upsr.compat import ENTRY_REGISTRY
from upsr.config.schema import TileOptions
from upsr.errors import UpsrError
from upsr.evaluation.entries import Entry, MissingWeightsError, WrongWeightsError, of_model
from upsr.methods.ldm.method import LatentDiffusionSR
from upsr.provenance import digest_of, file_digest


@ENTRY_REGISTRY.register()
class LatentDiffusion:
    """diffusers' ``LDMSuperResolutionPipeline`` from a local folder, sampled by DDIM without added noise.

    Args:
        folder: as ``save_pretrained`` writes it (unet/, vqvae/, scheduler/, model_index.json).
        steps: network calls.
    """

    def __init__(self, folder: str, steps: int = 15) -> None:
        self.folder = Path(folder)
        self.steps = steps

    def __call__(self, device: torch.device, tile: TileOptions | None) -> Entry:
        """See :func:`upsr.evaluation.entries.make_ready`."""
        if not self.folder.is_dir():
            raise MissingWeightsError(f"weights are not here ({self.folder})")
        try:
            from diffusers import LDMSuperResolutionPipeline
        except ImportError:
            raise UpsrError("LatentDiffusion needs diffusers: pip install 'upsr[latent]'") from None
        try:
            pipeline = LDMSuperResolutionPipeline.from_pretrained(str(self.folder), local_files_only=True)
        except Exception as error:  # damaged folders fail in many ways
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise WrongWeightsError(f"{self.folder}: diffusers cannot load it ({reason})") from None
        method = LatentDiffusionSR(pipeline.unet, pipeline.vqvae, pipeline.scheduler, self.steps)
        weights = sorted(self.folder.glob("*/diffusion_pytorch_model*"))
        settings = digest_of(
            {str(path.relative_to(self.folder)): file_digest(path) for path in self.folder.rglob("*.json")}
        )
        return of_model(method, device, tile, weights=weights, facts={"steps": self.steps, "settings_sha256": settings})
