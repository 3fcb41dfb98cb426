"""The names that the files of latent diffusion have for the parameters of diffusers' autoencoders."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_RULES = [
    (r"\.resnets\.(\d+)\.", r".block.\1."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.to_([qkv])\.", r".\1."),
]


def in_ldm_layout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of diffusers' ``VQModel`` or ``AutoencoderKL`` as latent diffusion names and shapes it.

    Its levels of the decoder are counted from the finest, and its attention layers are 1 x 1 convolutions.

    Args:
        weights: state dict; the returned tensors are views of its tensors.
    """
    levels = 1 + max(int(found[1]) for name in weights if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name)))
    renamed = {}
    for name, value in weights.items():
        is_linear = re.search(r"\.attentions\..*\.weight$", name) and value.dim() == 2
        renamed[_renamed(name, levels)] = value[..., None, None] if is_linear else value
    return renamed


def _renamed(name: str, levels: int) -> str:
    name = re.sub(r"\.mid_block\.resnets\.(\d+)\.", lambda m: f".mid.block_{int(m[1]) + 1}.", name)
    name = re.sub(r"\.down_blocks\.(\d+)\.", r".down.\1.", name)
    name = re.sub(r"\.up_blocks\.(\d+)\.", lambda m: f".up.{levels - 1 - int(m[1])}.", name)
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
