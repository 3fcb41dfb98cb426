"""The network of CLIP-IQA (Wang, Chan, Loy: Exploring CLIP for Assessing the Look and Feel of Images, AAAI 2023).

It is CLIP (Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021) with a ResNet-50.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAIRS = {
    "pyiqa": (
        ("Good image", "bad image"),
        ("Sharp image", "blurry image"),
        ("sharp edges", "blurry edges"),
        ("High resolution image", "low resolution image"),
        ("Noise-free image", "noisy image"),
    ),
    "paper": (("Good photo.", "Bad photo."),),
}
"""Pairs of a good and a bad prompt."""
TOKENS = {
    "Good image": (886, 2867),
    "bad image": (2103, 2867),
    "Sharp image": (8157, 2867),
    "blurry image": (21977, 2867),
    "sharp edges": (8157, 20938),
    "blurry edges": (21977, 20938),
    "High resolution image": (1400, 9977, 2867),
    "low resolution image": (1042, 9977, 2867),
    "Noise-free image": (9307, 268, 1139, 2867),
    "noisy image": (33495, 2867),
    "Good photo.": (886, 1125, 269),
    "Bad photo.": (2103, 1125, 269),
}
"""Of the prompts, by the byte-pair encoding of CLIP (the package openai-clip 1.0.1), which makes all letters small."""
_START, _END = 49406, 49407
_VOCABULARY, _CONTEXT = 49408, 77
_TEXT_WIDTH, _TEXT_LAYERS, _TEXT_HEADS = 512, 12, 8
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, number of blocks and stride of each."""
_EXPANSION = 4
_IMAGE_WIDTH, _IMAGE_HEADS = 2048, 32
_JOINT = 1024
"""Channels of the space in which images and texts are compared."""
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_OWN_NAMES = {
    "transformer.layers.": "transformer.resblocks.",
    ".self_attn.": ".attn.",
    ".norm1.": ".ln_1.",
    ".norm2.": ".ln_2.",
    ".linear1.": ".mlp.c_fc.",
    ".linear2.": ".mlp.c_proj.",
}
"""Parts of the names of torch's transformer, and of the published file's."""
_COUNTER = "num_batches_tracked"
"""Of torch's batch norm, which only training reads."""


class CLIPIQANetwork(nn.Module):
    """The probability that an image is as a good prompt says and not as a bad one, by CLIP; a mean over pairs of prompts.

    Args:
        prompts: a key of :data:`PAIRS`.
    """

    def __init__(self, prompts: str) -> None:
        super().__init__()
        texts = [(_START, *TOKENS[text], _END) for pair in PAIRS[prompts] for text in pair]
        self.ends = [len(text) - 1 for text in texts]
        # A token attends to those before it: what fills a text behind its end changes nothing.
        self.tokens = [(*text, *(0,) * (max(self.ends) + 1 - len(text))) for text in texts]
        self.visual = ImageTower()
        self.token_embedding = nn.Embedding(_VOCABULARY, _TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.zeros(_CONTEXT, _TEXT_WIDTH))
        layer = nn.TransformerEncoderLayer(
            _TEXT_WIDTH,
            _TEXT_HEADS,
            4 * _TEXT_WIDTH,
            dropout=0.0,
            activation=_quick_gelu,
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(layer, _TEXT_LAYERS, enable_nested_tensor=False)
        self.ln_final = nn.LayerNorm(_TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.zeros(_TEXT_WIDTH, _JOINT))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor, prompts: Tensor) -> Tensor:
        """(B,) probabilities of (B, 3, H, W) in [0, 1], sides of 31 and more, with the features of the prompts."""
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        likeness = F.normalize(self.visual((image - mean) / std), dim=1) @ F.normalize(prompts, dim=1).T
        pairs = (self.logit_scale.exp() * likeness).unflatten(1, (-1, 2))
        return pairs.softmax(dim=2)[..., 0].mean(dim=1)

    def prompt_features(self) -> Tensor:
        """(2 pairs, 1024) features of the prompts: those of their last token."""
        tokens = torch.tensor(self.tokens, device=self.logit_scale.device)
        count, length = tokens.shape
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        later = nn.Transformer.generate_square_subsequent_mask(length, device=x.device, dtype=x.dtype)
        x = self.transformer(x, mask=later, is_causal=True)[range(count), self.ends]
        return self.ln_final(x) @ self.text_projection

    def published_state(self) -> dict[str, Tensor]:
        """The state under the names of the published file, without counters of batches, which it may lack."""
        return {_published(name): value for name, value in self.state_dict().items() if not name.endswith(_COUNTER)}

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Take tensors under the names of :meth:`published_state`, which are not copied where they are float32."""
        own = {
            name: torch.zeros_like(value, device="cpu")
            if name.endswith(_COUNTER)
            else weights[_published(name)].float()
            for name, value in self.state_dict().items()
        }
        self.load_state_dict(own, assign=True)


class ImageTower(nn.Module):
    """CLIP's ResNet-50: three convolutions begin it, averages make its strides, attention its last pooling."""

    def __init__(self) -> None:
        super().__init__()
        channels, _, _ = _STAGES[0]
        self.conv1, self.bn1 = _convolution(3, channels // 2, 3, stride=2)
        self.conv2, self.bn2 = _convolution(channels // 2, channels // 2, 3)
        self.conv3, self.bn3 = _convolution(channels // 2, channels, 3)
        self.pool = nn.AvgPool2d(2)
        stages = []
        for width, blocks, stride in _STAGES:
            first = Bottleneck(channels, width, stride)
            channels = _EXPANSION * width
            stages.append(nn.Sequential(first, *(Bottleneck(channels, width) for _ in range(blocks - 1))))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.attnpool = AttentionPooling()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised, to (B, 1024)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.pool(F.relu(self.bn3(self.conv3(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.attnpool(x)


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 pixels beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(channels, width, 1)
        self.conv2, self.bn2 = _convolution(width, width, 3)
        self.conv3, self.bn3 = _convolution(width, _EXPANSION * width, 1)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        widens = channels != _EXPANSION * width
        self.downsample = nn.Sequential(*_convolution(channels, _EXPANSION * width, 1)) if widens else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, 4 width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(self.pool(y))) + self.downsample(self.pool(x)))


class AttentionPooling(nn.Module):
    """The mean of all places attends to itself and to the places.

    CLIP-IQA leaves out the embedding of places, so that they may be any number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(_IMAGE_WIDTH, _IMAGE_WIDTH) for _ in range(3))
        self.c_proj = nn.Linear(_IMAGE_WIDTH, _JOINT)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2048, H, W) to (B, 1024)."""
        places = x.flatten(2).mT
        mean = places.mean(dim=1, keepdim=True)
        keys = torch.cat([mean, places], dim=1)
        query, key, value = (
            y.unflatten(-1, (_IMAGE_HEADS, -1)).transpose(1, 2)
            for y in (self.q_proj(mean), self.k_proj(keys), self.v_proj(keys))
        )
        return self.c_proj(F.scaled_dot_product_attention(query, key, value).flatten(1))


def _convolution(channels: int, width: int, size: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution = nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(width)


def _quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def _published(name: str) -> str:
    for own, published in _OWN_NAMES.items():
        name = name.replace(own, published)
    return name
