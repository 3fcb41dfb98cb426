"""The names and shapes that released checkpoints of StableSR have for the weights of its networks.

Each function takes the state dict of a checkpoint and that of the network to fill, which may be on the device ``meta``, and gives
the network's state dict with the checkpoint's values: views of them, wherever no layer is cut in three.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from upsr.codecs.ldm_layout import in_ldm_layout
from upsr.errors import UpsrError

Weights = Mapping[str, Tensor]

UNET, ENCODER, VAE, TEXT = (
    "model.diffusion_model.",
    "structcond_stage_model.",
    "first_stage_model.",
    "cond_stage_model.",
)
"""Prefixes of the networks in a checkpoint of stage one."""

FUSION = "decoder.fusion_layer_"
"""Prefix of the fusion blocks in a checkpoint of stage two, whose autoencoder has none."""

NETWORKS = (UNET, ENCODER, FUSION)
"""Prefixes under which there is nothing but what is converted."""

_SHOWN = 12
_BLOCK = re.compile(r"(?P<side>down|mid|up)_blocks?\.((?P<level>\d+)\.)?(?P<kind>[a-z]+)\.(?P<number>\d+)(?=\.)")
_PROJECTION = re.compile(r"\.(?:to_)?([qkv])(?:_proj)?\.\w+$")
_RESIDUAL = [
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]
_ENDS = [
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^feature_blocks\.", "fea_tran."),
    *_RESIDUAL,
]
_DOWN = [(r"^\.conv\.", ".op.")]
_SELF_ATTENTION = [(r"\.group_norm\.", ".norm."), (r"\.to_[qkv]\.", ".qkv."), (r"\.to_out\.0\.", ".proj_out.")]
_SFT = [
    (r"\.norm\.", ".spade.param_free_norm."),
    (r"\.shared\.", ".spade.mlp_shared.0."),
    (r"\.scale\.", ".spade.mlp_gamma."),
    (r"\.shift\.", ".spade.mlp_beta."),
]
_TEXT = [
    (r"^(text_model\.)?((embeddings|encoder)\.)?", "model."),
    (r"\.position_embedding\.weight", ".positional_embedding"),
    (r"\.final_layer_norm\.", ".ln_final."),
    (r"\.layers\.", ".transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
    (r"\.self_attn\.", ".attn."),
]
_FUSION = [
    (r"^fusion\.(\d+)\.", rf"{FUSION}\1."),
    (r"\.first\.", ".encode_enc_1."),
    (r"\.dense\.", ".encode_enc_2."),
    (r"\.last\.", ".encode_enc_3."),
    (r"\.conv_shortcut\.", ".conv_out."),
]


class MisfitError(UpsrError):
    """A checkpoint's tensors are not those of the networks.

    Args:
        which: of the tensors: "missing tensors".
        names: their names in the checkpoint.
    """

    def __init__(self, which: str, names: list[str]) -> None:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        super().__init__(f"{which} ({len(names)}): {', '.join(names[:_SHOWN])}{more}")


def unet_weights(weights: Weights, own: Weights) -> dict[str, Tensor]:
    """Those of diffusers' ``UNet2DConditionModel``."""
    return _filled(weights, own, [UNET + name for name in _in_ldm_unet(own, {"resnets": _RESIDUAL})])


def vae_weights(weights: Weights, own: Weights, prefix: str = VAE) -> dict[str, Tensor]:
    """Those of diffusers' ``AutoencoderKL``; ``prefix`` is empty for a checkpoint of stage two."""
    return _filled(weights, own, [prefix + name for name in in_ldm_layout(own)])


def text_weights(weights: Weights, own: Weights) -> dict[str, Tensor]:
    """Those of transformers' ``CLIPTextModel``."""
    return _filled(
        weights, own, [TEXT + _renamed(name, _TEXT) for name in own], lambda value: value.unflatten(0, (3, -1))
    )


def conditioning_weights(weights: Weights, own: Weights, heads: int = 4) -> dict[str, Tensor]:
    """Those of :class:`upsr.methods.stablesr.sft.Conditioning`.

    Args:
        heads: of the encoder's self-attention.
    """
    encoder = [name.removeprefix("encoder.") for name in own if name.startswith("encoder.")]
    layers = [name.removeprefix("sft.") for name in own if name.startswith("sft.")]
    blocks = [name.replace("blocks_", "blocks.").replace("_resnets_", ".resnets.") for name in layers]
    in_encoder = _in_ldm_unet(encoder, {"resnets": _RESIDUAL, "attentions": _SELF_ATTENTION})
    names = {f"encoder.{name}": ENCODER + there for name, there in zip(encoder, in_encoder, strict=True)}
    in_unet = _in_ldm_unet(blocks, {"resnets": _SFT})
    names |= {f"sft.{name}": UNET + there for name, there in zip(layers, in_unet, strict=True)}
    # The query, key and value of each head are neighbours.
    return _filled(
        weights, own, [names[name] for name in own], lambda value: value.unflatten(0, (heads, 3, -1)).transpose(0, 1)
    )


def cfw_weights(weights: Weights, own: Weights) -> dict[str, Tensor]:
    """Those of :class:`upsr.methods.stablesr.cfw.CFW`."""
    return _filled(weights, own, [_renamed(name, _FUSION) for name in own])


def _filled(
    weights: Weights, own: Weights, names: Iterable[str], in_three: Callable[[Tensor], Tensor] = lambda value: value
) -> dict[str, Tensor]:
    """The tensors of ``own`` with the values that ``weights`` has under ``names``, in the order of ``own``.

    Args:
        in_three: makes the joined projections of an attention (3, ...): its query, key and value.
    """
    names = list(names)
    uses = Counter(names)
    if missing := [name for name in uses if name not in weights]:
        raise MisfitError("missing tensors", missing)
    filled, odd = {}, {}
    for (name, like), there in zip(own.items(), names, strict=True):
        value, rows = weights[there], like.shape[0]
        part = _PROJECTION.search(name) if uses[there] > 1 else None
        if _without_ones(value.shape) != _without_ones((3 * rows if part else rows, *like.shape[1:])):
            odd[there] = f"{there} {tuple(value.shape)} for {tuple(like.shape)}"
            continue
        if part:
            value = in_three(value)["qkv".index(part[1])]
        filled[name] = value.reshape(like.shape)
    if odd:
        raise MisfitError("tensors of another shape", list(odd.values()))
    return filled


def _without_ones(shape: Sequence[int]) -> list[int]:
    """A shape without the sides of kernels of one value: a linear layer may be a convolution."""
    return [*shape[:1], *(side for side in shape[1:] if side > 1)]


def _in_ldm_unet(names: Iterable[str], rules: Mapping[str, list[tuple[str, str]]]) -> list[str]:
    """Names of diffusers' U-Net, or of its encoder half, as latent diffusion counts the blocks.

    Args:
        rules: of the layers in a block, by the kind of block.
    """
    names = list(names)
    places = [_BLOCK.match(name) for name in names]
    # The down-sampling layer of a level is one, and so is the residual block that a level has more on the way up.
    per_level = 2 + max(int(p["number"]) for p in places if p and p["side"] == "down" and p["kind"] == "resnets")
    attentive = {p["level"] for p in places if p and p["side"] == "up" and p["kind"] == "attentions"}
    own_rules = {"downsamplers": _DOWN, **rules}
    renamed = []
    for name, place in zip(names, places, strict=True):
        if place is None:
            renamed.append(_renamed(name, _ENDS))
            continue
        first, number = int(place["level"] or 0) * per_level, int(place["number"])
        block = {
            ("down", "resnets"): f"input_blocks.{first + 1 + number}.0",
            ("down", "attentions"): f"input_blocks.{first + 1 + number}.1",
            ("down", "downsamplers"): f"input_blocks.{first + per_level}.0",
            ("mid", "resnets"): f"middle_block.{2 * number}",
            ("mid", "attentions"): f"middle_block.{2 * number + 1}",
            ("up", "resnets"): f"output_blocks.{first + number}.0",
            ("up", "attentions"): f"output_blocks.{first + number}.1",
            ("up", "upsamplers"): f"output_blocks.{first + per_level - 1}.{2 if place['level'] in attentive else 1}",
        }[place["side"], place["kind"]]
        renamed.append(block + _renamed(name[place.end() :], own_rules.get(place["kind"], [])))
    return renamed


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
