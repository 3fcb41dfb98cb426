"""A saved pipeline with the smallest networks, to upscale with."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import UNET, random_weights
from upsr.config import parse_options
from upsr.methods import build_method
from upsr.methods.saved import config_of
from upsr.pipeline.pipeline import UPSRPipeline


def save_pipeline(folder: Path) -> Path:
    """Write it to ``folder``, which is given back: two steps, and attention in the middle alone, where time is."""
    opt = parse_options(
        {
            "name": "least",
            "model_type": "UPSRModel",
            "datasets": {},
            "network_g": {"type": "UNetModelSwin", **UNET, "attention_resolutions": []},
            "diffusion": {"sampler": {"steps": 2}},
            "network_aux": {"type": "CompactSR", "num_feat": 8, "num_block": 1},
            "path": {"allow_random_weights": True},
        },
        "least",
    )
    method = build_method(opt)
    random_weights(method.denoiser)
    UPSRPipeline(method.eval(), config_of(opt), "cpu").save_pretrained(folder)
    return folder
