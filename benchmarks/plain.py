"""The two networks and the sampler of UPSR as they are usually written in this field, to compare with.

Eager float32, maps NCHW, tokens in a row; attention as product, bias, mask, softmax, product, with the mask built again at
each call; norms and activations one after the other; categories by sort and gather. The modules have the names of the
released weights, so each loads the state of the network that it is compared with, and gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsr.methods.upsr.method import UPSR

MASKED = -100.0


# ---------------------------------------------------------------- windows


def windows_of(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, window * window, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window * window, c)


def image_of(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """The reverse of :func:`windows_of`."""
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, windows.shape[-1])


def shift_mask(height: int, width: int, window: int, shift: int, *, released: bool) -> Tensor:
    """(windows, N, N): Swin's mask, or the one the released denoiser was trained with."""
    regions = torch.zeros(1, height, width, 1)
    slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    if released:
        # The last row of windows, split by column inside each of its windows.
        column = torch.arange(width) % window >= window - shift
        regions[:, -window:] = column.float().view(1, 1, -1, 1)
    else:
        for i, rows in enumerate(slices):
            for j, columns in enumerate(slices):
                regions[:, rows, columns] = 3 * i + j
    groups = windows_of(regions, window).squeeze(-1)
    apart = groups[:, None, :] - groups[:, :, None]
    return torch.zeros_like(apart).masked_fill(apart != 0, MASKED)


def attention(qkv: Tensor, heads: int, scale: float, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """(B, N, 3C) -> (B, N, C); bias (heads, N, N), mask (windows, N, N)."""
    b, n, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.reshape(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias.unsqueeze(0)
    if mask is not None:
        logits = logits.view(b // len(mask), len(mask), heads, n, n) + mask[None, :, None]
        logits = logits.view(-1, heads, n, n)
    return (logits.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c)


def table_bias(table: Tensor, index: Tensor) -> Tensor:
    """(heads, N, N) out of the table of relative positions."""
    n = len(index)
    return table[index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()


# ---------------------------------------------------------------- the denoiser


class PlainResBlock(nn.Module):
    """Norm, SiLU, convolution, twice."""

    def __init__(self, channels: int, emb: int, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x)
        scale, shift = torch.chunk(self.emb_layers(emb)[..., None, None], 2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class PlainWindowAttention(nn.Module):
    """Window attention over NCHW maps."""

    def __init__(self, dim: int, window: int, heads: int, shift: int, *, released: bool) -> None:
        super().__init__()
        self.window, self.heads, self.shift, self.released = window, heads, shift, released
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", torch.zeros(window**2, window**2, dtype=torch.int64))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        height, width = x.shape[1:3]
        mask = None
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
            mask = shift_mask(height, width, self.window, self.shift, released=self.released).to(x)
        bias = table_bias(self.relative_position_bias_table, self.relative_position_index)
        scale = (x.shape[-1] // self.heads) ** -0.5
        out = self.proj(attention(self.qkv(windows_of(x, self.window)), self.heads, scale, bias, mask))
        out = image_of(out, self.window, height, width)
        if self.shift:
            out = torch.roll(out, (self.shift, self.shift), dims=(1, 2))
        return out.permute(0, 3, 1, 2).contiguous()


class PlainMLP(nn.Module):
    """Two 1 x 1 convolutions."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class PlainSwinBlock(nn.Module):
    """Attention and feed-forward layer."""

    def __init__(self, dim: int, window: int, heads: int, shift: int, hidden: int, *, released: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, dim), nn.GroupNorm(32, dim)
        self.attn = PlainWindowAttention(dim, window, heads, shift, released=released)
        self.mlp = PlainMLP(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainSwinStage(nn.Module):
    """Swin blocks at their own width."""

    def __init__(self, channels: int, resolution: int, c: dict[str, Any]) -> None:
        super().__init__()
        dim, window = c["swin_embed_dim"], min(c["window_size"], resolution)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, dim, 1)})
        self.blocks = nn.ModuleList(
            PlainSwinBlock(
                dim, window, dim // c["num_head_channels"], window // 2 if i % 2 and resolution > c["window_size"] else 0,
                int(dim * c["mlp_ratio"]), released=c["shift_mask"] == "released",
            )
            for i in range(c["swin_depth"])
        )  # fmt: skip
        self.patch_unembed = nn.ModuleDict({"proj": nn.Conv2d(dim, channels, 1)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed["proj"](x)
        for block in self.blocks:
            x = block(x)
        return self.patch_unembed["proj"](x)


class PlainDownsample(nn.Module):
    """Halves the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class PlainUpsample(nn.Module):
    """Doubles the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class PlainUNet(nn.Module):
    """The denoiser; ``c`` holds the arguments of :class:`upsr.archs.UNetModelSwin`, all of them."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        width, emb = c["model_channels"], 4 * c["model_channels"]
        self.model_channels, self.doublings = width, int(math.log2(c["scale"]))
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        levels = len(c["channel_mult"])
        counts = [c["num_res_blocks"]] * levels if isinstance(c["num_res_blocks"], int) else list(c["num_res_blocks"])

        def block(channels: int, out: int, resolution: int, first: bool) -> list[nn.Module]:
            stage = [PlainSwinStage(out, resolution, c)] if first and resolution in c["attention_resolutions"] else []
            return [PlainResBlock(channels, emb, out), *stage]

        channels, resolution = width, c["image_size"]
        cond = 2 * c["in_channels"] if c["cond_channels"] is None else c["cond_channels"]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(c["in_channels"] + cond, width, 3, padding=1)])])
        skips = [channels]
        for level, mult in enumerate(c["channel_mult"]):
            for i in range(counts[level]):
                self.input_blocks.append(nn.ModuleList(block(channels, mult * width, resolution, i == 0)))
                channels = mult * width
                skips.append(channels)
            if level + 1 < levels:
                self.input_blocks.append(nn.ModuleList([PlainDownsample(channels)]))
                skips.append(channels)
                resolution //= 2
        self.middle_block = nn.ModuleList(
            [
                PlainResBlock(channels, emb, channels),
                PlainSwinStage(channels, resolution, c),
                PlainResBlock(channels, emb, channels),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(c["channel_mult"]))):
            for i in range(counts[level] + 1):
                layers = block(channels + skips.pop(), mult * width, resolution, i == 0)
                channels = mult * width
                if level and i == counts[level]:
                    layers.append(PlainUpsample(channels))
                    resolution *= 2
                self.output_blocks.append(nn.ModuleList(layers))
        feat = c["num_feat"]
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(channels, feat, 3, padding=1), nn.LeakyReLU())
        for i in range(1, self.doublings + 1):
            self.add_module(f"conv_up{i}", nn.Conv2d(feat, feat, 3, padding=1))
        self.conv_hr = nn.Conv2d(feat, feat, 3, padding=1)
        self.conv_last = nn.Conv2d(feat, c["out_channels"], 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        emb = self.time_embed(self._sinusoids(t))
        h, skips = torch.cat([x, lq], dim=1), []
        for block in self.input_blocks:
            h = self._run(block, h, emb)
            skips.append(h)
        h = self._run(self.middle_block, h, emb)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), emb)
        h = self.conv_before_upsample(h)
        for i in range(1, self.doublings + 1):
            h = F.interpolate(h, scale_factor=2, mode="nearest")
            h = F.leaky_relu(self.get_submodule(f"conv_up{i}")(h), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(h), 0.2))

    @staticmethod
    def _run(block: Any, h: Tensor, emb: Tensor) -> Tensor:
        for layer in block:
            h = layer(h, emb) if isinstance(layer, PlainResBlock) else layer(h)
        return h

    def _sinusoids(self, t: Tensor) -> Tensor:
        half = self.model_channels // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device).float() / half)
        angles = t.float()[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


# ---------------------------------------------------------------- g


class PlainDictionaryAttention(nn.Module):
    """Cosine attention to the dictionary."""

    def __init__(self, dim: int, num_tokens: int, reduced: int) -> None:
        super().__init__()
        self.wq, self.wk, self.wv = nn.Linear(dim, reduced), nn.Linear(dim, reduced), nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.ones(num_tokens))

    def forward(self, x: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.wq(x), self.wk(dictionary), self.wv(dictionary)
        similarity = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        similarity = similarity * (1 + self.scale.clamp(0, 1) * math.log(len(self.scale)))
        similarity = similarity.softmax(dim=-1)
        return similarity @ v, similarity


class PlainCategoryAttention(nn.Module):
    """Sort by category, gather, attend inside groups, put back."""

    def __init__(self, dim: int, heads: int, category_size: int) -> None:
        super().__init__()
        self.heads, self.category_size = heads, category_size
        self.logit_scale = nn.Parameter(torch.ones(1, 1))
        self.proj = nn.Linear(dim, dim)

    def forward(self, qkv: Tensor, similarity: Tensor) -> Tensor:
        b, n, c3 = qkv.shape
        size = min(n, self.category_size)
        _, order = torch.sort(torch.argmax(similarity, dim=-1), dim=-1, stable=True)
        back = torch.argsort(order, dim=-1)
        shuffled = torch.gather(qkv, 1, order[..., None].expand(-1, -1, c3))
        groups = -(-n // size)
        missing = groups * size - n
        padded = torch.cat([shuffled, shuffled[:, n - missing :].flip(1)], dim=1) if missing else shuffled
        scale = float(self.logit_scale.clamp(max=math.log(100.0)).exp())
        out = attention(padded.reshape(b * groups, size, c3), self.heads, scale, None, None)
        out = out.reshape(b, groups * size, -1)[:, :n]
        return self.proj(torch.gather(out, 1, back[..., None].expand(-1, -1, c3 // 3)))


class PlainShiftedAttention(nn.Module):
    """Window attention over projections made elsewhere."""

    def __init__(self, dim: int, window: int, heads: int, shift: int) -> None:
        super().__init__()
        self.window, self.heads, self.shift = window, heads, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, qkv: Tensor, index: Tensor) -> Tensor:
        height, width = qkv.shape[1:3]
        mask = None
        if self.shift:
            qkv = torch.roll(qkv, (-self.shift, -self.shift), dims=(1, 2))
            mask = shift_mask(height, width, self.window, self.shift, released=False).to(qkv)
        bias = table_bias(self.relative_position_bias_table, index)
        scale = (qkv.shape[-1] // 3 // self.heads) ** -0.5
        out = self.proj(attention(windows_of(qkv, self.window), self.heads, scale, bias, mask))
        out = image_of(out, self.window, height, width)
        return torch.roll(out, (self.shift, self.shift), dims=(1, 2)) if self.shift else out


class PlainConvFFN(nn.Module):
    """Feed-forward layer with a depthwise convolution."""

    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        conv = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.dwconv = nn.ModuleDict({"depthwise_conv": nn.Sequential(conv, nn.GELU())})

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = F.gelu(self.fc1(x))
        image = x.transpose(1, 2).view(len(x), -1, height, width).contiguous()
        return self.fc2(x + self.dwconv["depthwise_conv"](image).flatten(2).transpose(1, 2).contiguous())


class PlainATDLayer(nn.Module):
    """Three attentions and a feed-forward layer."""

    def __init__(self, c: dict[str, Any], shift: int, *, refines: bool) -> None:
        super().__init__()
        dim, heads, tokens = c["embed_dim"], c["num_heads"], c["num_tokens"]
        self.refines = refines
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.wqkv = nn.Linear(dim, 3 * dim)
        self.attn_win = PlainShiftedAttention(dim, c["window_size"], heads, shift)
        self.attn_atd = PlainDictionaryAttention(dim, tokens, c["reducted_dim"])
        self.attn_aca = PlainCategoryAttention(dim, heads, c["category_size"])
        self.convffn = PlainConvFFN(dim, int(dim * c["mlp_ratio"]), c["convffn_kernel_size"])
        if refines:
            self.norm3 = nn.InstanceNorm1d(tokens, affine=True)
            self.sigma = nn.Parameter(torch.zeros(tokens, 1))

    def forward(self, x: Tensor, dictionary: Tensor, size: tuple[int, int], index: Tensor) -> tuple[Tensor, Tensor]:
        shortcut, x = x, self.norm1(x)
        qkv = self.wqkv(x)
        by_dictionary, similarity = self.attn_atd(x, dictionary)
        by_category = self.attn_aca(qkv, similarity)
        by_window = self.attn_win(qkv.view(len(x), *size, -1), index).flatten(1, 2)
        x = shortcut + (by_dictionary + by_category + by_window) / math.sqrt(3)
        x = x + self.convffn(self.norm2(x), *size)
        if self.refines:
            keep = torch.sigmoid(self.sigma)
            attention_map = self.norm3(similarity.transpose(1, 2).contiguous()).softmax(dim=-1)
            dictionary = keep * dictionary + (1 - keep) * (attention_map @ x)
        return x, dictionary


class PlainGroup(nn.Module):
    """Layers with one dictionary, a convolution, a norm."""

    def __init__(self, c: dict[str, Any], depth: int) -> None:
        super().__init__()
        layers = [PlainATDLayer(c, c["window_size"] // 2 if i % 2 else 0, refines=i + 1 < depth) for i in range(depth)]
        self.residual_group = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.residual_group.register_parameter("td", nn.Parameter(torch.zeros(c["num_tokens"], c["embed_dim"])))
        self.conv = nn.Conv2d(c["embed_dim"], c["embed_dim"], 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(c["embed_dim"])})

    def forward(self, x: Tensor, size: tuple[int, int], index: Tensor) -> Tensor:
        shortcut, dictionary = x, self.residual_group.td[None].repeat(len(x), 1, 1)
        for layer in self.residual_group["layers"]:
            x, dictionary = layer(x, F.normalize(dictionary, dim=-1), size, index)
        image = self.conv(x.transpose(1, 2).view(len(x), -1, *size))
        return self.patch_embed["norm"](image.flatten(2).transpose(1, 2)) + shortcut


class PlainATD(nn.Module):
    """g; ``c`` holds the arguments of :class:`upsr.archs.ATD`, all of them."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        dim, self.window, self.scale = c["embed_dim"], c["window_size"], c["upscale"]
        n = c["window_size"] ** 2
        self.register_buffer("relative_position_index_SA", torch.zeros(n, n, dtype=torch.int64))
        self.conv_first = nn.Conv2d(c["in_chans"], dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(dim)})
        self.layers = nn.ModuleList(PlainGroup(c, depth) for depth in c["depths"])
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(dim, c["upscale"] ** 2 * c["in_chans"], 3, padding=1), nn.PixelShuffle(c["upscale"])
        )

    def forward(self, lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        x = lq * 2 - 1
        for dim, side in ((2, height), (3, width)):
            missing = -side % self.window
            x = torch.cat([x, x.flip(dim).narrow(dim, 0, missing)], dim=dim) if missing else x
        size = (x.shape[-2], x.shape[-1])
        shallow = self.conv_first(x)
        x = self.patch_embed["norm"](shallow.flatten(2).transpose(1, 2))
        for group in self.layers:
            x = group(x, size, self.relative_position_index_SA)
        x = self.norm(x).transpose(1, 2).view(len(x), -1, *size)
        x = self.upsample(self.conv_after_body(x) + shallow) / 2 + 0.5
        return x[..., : height * self.scale, : width * self.scale]


# ---------------------------------------------------------------- restoration


@torch.no_grad()
def plain_restore(model: UPSR, unet: PlainUNet, g: Callable[[Tensor], Tensor], lq: Tensor, noise: Tensor) -> Tensor:
    """The released sampler on whole images, sides multiples of 64: (B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w) in [0, 1].

    Args:
        model: gives schedule and constants only.
        noise: (B, 48, h, w), standard normal.
    """
    scale, process = model.facts.scale, model.schedule
    y = F.interpolate(lq * 2 - 1, scale_factor=scale, mode="bicubic", align_corners=False)
    y_hat = g(lq) * 2 - 1
    weight = model.sampling.uncertainty(y_hat, y)
    cond = F.pixel_unshuffle(torch.cat([y_hat, y], dim=1), scale)
    y, weight = F.pixel_unshuffle(y, scale), F.pixel_unshuffle(weight, scale)

    def batched(step: int) -> Tensor:
        return torch.full((len(lq),), step, device=lq.device)

    x = process.prior_sample(y, batched(model.sampling.timesteps[0]), weight=weight, noise=noise)
    for step, after in zip(model.sampling.timesteps, [*model.sampling.timesteps[1:], None], strict=True):
        x_0 = F.pixel_unshuffle(unet(process.scale_input(x, batched(step)), batched(step), cond), scale)
        if after is not None:
            x = process.ddim_step(x_0, x, y, batched(step), t_prev=batched(after))
    return (F.pixel_shuffle(x_0, scale).clamp(-1, 1) + 1) / 2
