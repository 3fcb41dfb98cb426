"""A tiny StableSR: Stable Diffusion of a few layers in a folder of diffusers, and option mappings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import training
from upsr.config.load import merged

SCHEDULER = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1,
}  # fmt: skip
ENCODER = {
    "model_channels": 32,
    "out_channels": 32,
    "channel_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "norm_num_groups": 8,
}


def tiny_backbone(folder: Path, **scheduler: Any) -> Path:
    """The folder, written unless it is there: an image of 64 x 64 is a latent of 8 x 8, for which the U-Net is made."""
    if (folder / "model_index.json").is_file():
        return folder
    diffusers = pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")
    transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'upsr[sd]'")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 32, 64, 64), layers_per_block=1, cross_attention_dim=32,
            attention_head_dim=(1, 1, 2, 2), use_linear_projection=True, norm_num_groups=8,
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8, sample_size=64,
        )  # fmt: skip
        config = transformers.CLIPTextConfig(
            vocab_size=514, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, bos_token_id=512, eos_token_id=513, pad_token_id=0,
        )  # fmt: skip
        text_encoder = transformers.CLIPTextModel(config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    pipe = diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=_tokenizer(folder),
        scheduler=diffusers.DDIMScheduler(**SCHEDULER, **scheduler), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> Any:
    """A tokenizer of single characters."""
    import transformers

    bytes_ = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(c) for c in bytes_] + [chr(256 + i) for i in range(256 - len(bytes_))]
    words = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
    merges.write_text("#version: 0.2\n")
    made = transformers.CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77, pad_token="!")
    vocabulary.unlink()
    merges.unlink()
    return made


def tiny_options(root: Path, photos: Path, **changes: Any) -> dict[str, Any]:
    """A mapping of options; all networks have random weights."""
    data = training.common_options(root, photos)
    own = {
        "method": "stablesr",
        "backbone": str(tiny_backbone(root / "sd")),
        "encoder": dict(ENCODER),
        "sft": {"hidden_channels": 16},
        "cfw": {"num_rrdb": 1, "growth": 8},
        "sampler": {"steps": 2},
        "path": {"allow_random_weights": True},
    }
    return merged(merged(data, own), changes)
