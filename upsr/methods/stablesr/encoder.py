"""The time-aware encoder of StableSR (paper Sec. 3.1, Table 7): features of the LR latent that depend on the timestep."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from torch import Tensor, nn

from upsr.archs.diffusers_library import diffusers

_EPS = 1e-5


class TimeAwareEncoder(nn.Module):
    """The encoder half of a U-Net under the time embedding, with a residual block for each resolution; 52,494,080 parameters.

    Two residual blocks a level, each followed by self-attention except on the last level; the middle is
    residual-attention-residual.

    Args:
        in_channels: of the latent.
        model_channels: width of the first level.
        out_channels: of the features.
        channel_mult: width of each level in units of ``model_channels``; every level but the last halves the sides.
        num_res_blocks: residual blocks of each level.
        num_heads: of the self-attention.
        norm_num_groups: of the group norms.
    """

    def __init__(
        self,
        in_channels: int = 4,
        model_channels: int = 256,
        out_channels: int = 256,
        channel_mult: Sequence[int] = (1, 1, 2, 2),
        num_res_blocks: int = 2,
        num_heads: int = 4,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        diffusers()
        # Importable, and not of the library's public interface: tests hold names, shapes and numbers.
        blocks = importlib.import_module("diffusers.models.unets.unet_2d_blocks")
        embeddings = importlib.import_module("diffusers.models.embeddings")
        resnet = importlib.import_module("diffusers.models.resnet").ResnetBlock2D
        self.num_res_blocks = num_res_blocks
        embedded = 4 * model_channels
        widths = [model_channels * mult for mult in channel_mult]
        self.time_proj = embeddings.Timesteps(model_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = embeddings.TimestepEmbedding(model_channels, embedded)
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        norm = {"resnet_eps": _EPS, "resnet_groups": norm_num_groups}
        shared = {"temb_channels": embedded, "num_layers": num_res_blocks, **norm}
        self.down_blocks = nn.ModuleList()
        for entering, width in zip([widths[0], *widths], widths[:-1], strict=False):
            self.down_blocks.append(
                blocks.AttnDownBlock2D(
                    entering, width, attention_head_dim=width // num_heads, downsample_padding=1, **shared
                )
            )
        last = widths[-1]
        self.down_blocks.append(blocks.DownBlock2D(widths[-2], last, add_downsample=False, **shared))
        self.mid_block = blocks.UNetMidBlock2D(last, embedded, attention_head_dim=last // num_heads, **norm)
        features = {"out_channels": out_channels, "temb_channels": embedded, "eps": _EPS, "groups": norm_num_groups}
        self.feature_blocks = nn.ModuleList(resnet(in_channels=width, **features) for width in widths)

    def forward(self, z_lr: Tensor, t: Tensor) -> list[Tensor]:
        """Features of a latent.

        Args:
            z_lr: (B, in_channels, h, w), sides multiples of 2^(levels - 1).
            t: (B,) timesteps.

        Returns:
            (B, out_channels, h / 2^l, w / 2^l) for each level l.
        """
        embedding = self.time_embedding(self.time_proj(t).to(z_lr.dtype))
        x, taken = self.conv_in(z_lr), []
        for block in self.down_blocks:
            x, states = block(x, embedding)
            # The state after the last residual block, before the down-sampling.
            taken.append(states[self.num_res_blocks - 1])
        taken[-1] = self.mid_block(x, embedding)
        return [block(x, embedding) for block, x in zip(self.feature_blocks, taken, strict=True)]
