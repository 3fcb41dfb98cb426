"""Unconditional denoisers of other libraries, which are imported where one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from upsr.archs.contracts import NoisePredictor
from upsr.archs.diffusers_library import diffusers
from upsr.compat import ARCH_REGISTRY
from upsr.errors import MissingPackageError, UpsrError


@ARCH_REGISTRY.register()
class DiffusersUNet2D(NoisePredictor):
    """diffusers' ``UNet2DModel``; weight files have its names.

    Args:
        sample_size: side of the states that it is trained on, in pixels or cells of a latent.
        channels: of the state.
        block_out_channels: width of each level.
        down_block_types, up_block_types: diffusers' names of the levels' blocks; by default plain ones.
        layers_per_block: residual blocks of each level.
        attention_head_dim: channels of an attention head; ``None`` for one head.
        norm_num_groups: groups of the group norms.
        more: further arguments of ``UNet2DModel`` by name.
    """

    def __init__(
        self,
        sample_size: int,
        channels: int = 3,
        block_out_channels: Sequence[int] = (224, 448, 672, 896),
        down_block_types: Sequence[str] | None = None,
        up_block_types: Sequence[str] | None = None,
        layers_per_block: int = 2,
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 32,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        try:
            self.network: Any = diffusers().UNet2DModel(
                sample_size=sample_size,
                in_channels=channels,
                out_channels=channels,
                block_out_channels=tuple(block_out_channels),
                down_block_types=tuple(down_block_types or ("DownBlock2D",) * levels),
                up_block_types=tuple(up_block_types or ("UpBlock2D",) * levels),
                layers_per_block=layers_per_block,
                attention_head_dim=attention_head_dim,
                norm_num_groups=norm_num_groups,
                **(more or {}),
            )
        except (ValueError, TypeError) as error:
            raise UpsrError(f"DiffusersUNet2D: {' '.join(str(error).split())[:200]}") from None
        self.channels, self.sample_size, self.size_multiple = channels, sample_size, 2 ** (levels - 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        output: Tensor = self.network(x, t).sample
        return output

    def other_layouts(self) -> list[dict[str, Tensor]]:
        """The state dict as diffusers names it; its tensors are views of the parameters."""
        return [self.network.state_dict()]


@ARCH_REGISTRY.register()
class DenoisingDiffusionUNet(NoisePredictor):
    """``Unet`` of the package denoising-diffusion-pytorch; the defaults are the 35.71 M parameters of the Diff-SR paper.

    Args:
        sample_size: side of the images that it is trained on.
        dim: width of the first level.
        dim_mults: width of each level in units of ``dim``.
        channels: of the state.
        flash_attn: attention by torch's fused kernels.
    """

    def __init__(
        self,
        sample_size: int = 256,
        dim: int = 64,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        flash_attn: bool = False,
    ) -> None:
        super().__init__()
        try:
            from denoising_diffusion_pytorch import Unet
        except ImportError:
            raise MissingPackageError(
                "DenoisingDiffusionUNet needs denoising-diffusion-pytorch: pip install 'upsr[diffsr]'"
            ) from None
        self.network: nn.Module = Unet(dim=dim, dim_mults=tuple(dim_mults), channels=channels, flash_attn=flash_attn)
        self.channels, self.sample_size, self.size_multiple = channels, sample_size, 2 ** (len(dim_mults) - 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        output: Tensor = self.network(x, t)
        return output

    def other_layouts(self) -> list[dict[str, Tensor]]:
        """The state dict as the package names it; its tensors are views of the parameters."""
        return [self.network.state_dict()]
