"""Released checkpoints of StableSR in this layout: tiny ones with synthetic weights under the released names."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from tests.golden_recipe import fill, key_shapes
from upsr.methods.stablesr import convert

UNET = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 128, 128),
    "attention_head_dim": (2, 4, 8, 8),
    "cross_attention_dim": 48,
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (32, 64, 128, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TEXT = {"vocab_size": 514, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs the extra: pip install 'upsr[sd]'")


def released(file: str) -> dict[str, Tensor]:
    """A checkpoint's weights."""
    names = key_shapes(f"stablesr/{file}.json")
    return {name: fill(name.removeprefix(convert.VAE), tuple(shape)) for name, shape in names.items()}


def released_text() -> dict[str, Tensor]:
    """OpenCLIP's text tower as it is named in a checkpoint: one layer more than is used, and what no embedding needs."""
    width, hidden, layers = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["num_hidden_layers"]
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, width), "text_projection": (width, width), "logit_scale": (1,),
        "token_embedding.weight": (TEXT["vocab_size"], width), "ln_final.weight": (width,), "ln_final.bias": (width,),
    }  # fmt: skip
    for layer in range(layers + 1):
        block = {
            "ln_1": (width,), "ln_2": (width,), "attn.in_proj": (3 * width, width), "attn.out_proj": (width, width),
            "mlp.c_fc": (hidden, width), "mlp.c_proj": (width, hidden),
        }  # fmt: skip
        for name, shape in block.items():
            dot = "_" if name.endswith("in_proj") else "."
            shapes[f"transformer.resblocks.{layer}.{name}{dot}weight"] = shape
            shapes[f"transformer.resblocks.{layer}.{name}{dot}bias"] = shape[:1]
    return {name: fill(name, shape) for n, shape in shapes.items() for name in [f"cond_stage_model.model.{n}"]}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_unet_and_autoencoder_are_converted_as_diffusers_does(diffusers):
    library = pytest.importorskip("diffusers.loaders.single_file_utils")
    weights = released("tiny_keys")
    unet, vae = diffusers.UNet2DConditionModel(**UNET), diffusers.AutoencoderKL(**VAE)
    plain = {name: value for name, value in weights.items() if ".spade." not in name}
    converted = convert.unet_weights(weights, unet.state_dict())
    assert same(converted, library.convert_ldm_unet_checkpoint(plain, unet.config))
    unet.load_state_dict(converted)
    converted = convert.vae_weights(weights, vae.state_dict())
    assert same(converted, library.convert_ldm_vae_checkpoint(plain, vae.config))
    assert same(converted, convert.vae_weights(released("tiny_cfw_keys"), vae.state_dict(), ""))
    vae.load_state_dict(converted)


def test_blocks_are_counted_by_the_layers_of_a_level(diffusers):
    """With one layer or three a level as with two, and with attention elsewhere."""
    library = pytest.importorskip("diffusers.loaders.single_file_utils")
    for layers, attentive in ((1, (False, True, True)), (3, (True, False, False))):
        kinds = [("CrossAttn" if is_one else "") for is_one in attentive]
        unet = diffusers.UNet2DConditionModel(
            **{**UNET, "block_out_channels": (32, 32, 64), "attention_head_dim": 2},
            layers_per_block=layers,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        )
        own = unet.state_dict()
        names = [convert.UNET + name for name in convert._in_ldm_unet(own, {"resnets": convert._RESIDUAL})]
        weights = dict(zip(names, own.values(), strict=True))
        assert len(weights) == len(own)
        assert same(library.convert_ldm_unet_checkpoint(weights, unet.config), dict(own))


def test_the_text_tower_is_converted_as_diffusers_does(diffusers):
    library = pytest.importorskip("diffusers.loaders.single_file_utils")
    transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'upsr[sd]'")
    tower = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))
    weights = released_text()
    expected = library.convert_open_clip_checkpoint(tower, weights)
    bare = {name.removeprefix("text_model."): value for name, value in expected.items()}
    converted = convert.text_weights(weights, tower.state_dict())
    for name, value in converted.items():
        assert torch.equal(value, bare[name.removeprefix("text_model.")]), name
    tower.load_state_dict(converted)


def test_what_is_missing_or_misshapen_is_named_as_in_the_file(diffusers):
    vae = diffusers.AutoencoderKL(**VAE)
    weights = released("tiny_cfw_keys")
    gone = ["quant_conv.bias", "decoder.up.0.block.2.conv1.weight"]
    short = {name: value for name, value in weights.items() if name not in gone}
    with pytest.raises(convert.MisfitError, match="2 tensors are missing: ") as error:
        convert.vae_weights(short, vae.state_dict(), "")
    assert sorted(error.value.names) == sorted(gone)
    weights["decoder.conv_in.bias"] = torch.zeros(7)
    with pytest.raises(convert.MisfitError, match=re.escape("decoder.conv_in.bias (7,) for (128,)")):
        convert.vae_weights(weights, vae.state_dict(), "")
