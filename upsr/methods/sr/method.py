"""A network that upscales by itself: stage one of UPSR, and any checkpoint that spandrel knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.accelerate import accelerated
from upsr.archs.contracts import SRNetwork
from upsr.diffusion.sampling import Noise
from upsr.methods.base import Facts, Method, Watch
from upsr.methods.build import build_network, load_weights
from upsr.methods.sr.options import SROptions
from upsr.tiling.tiles import TilePlan, Tiles, whole_plan
from upsr.tiling.windows import Tile

_OF_ATD = "layers.0.patch_embed.norm.weight"


class SR(Method):
    """A plain SR network, from LR in [0, 1] to SR in about [0, 1].

    The released g of UPSR came from the training of one (paper, Sec. 4.1); the recipe itself was not published.
    """

    Options = SROptions
    weight_keys: ClassVar[Mapping[str, str]] = {"g": "pretrain_network_g"}
    takes = "atd_real.pth, files of networks that spandrel knows"

    def __init__(self, network: SRNetwork) -> None:
        super().__init__()
        self.g = network
        self.facts = Facts(
            network.scale, network.channels, network.size_multiple, values_per_pixel=network.values_per_pixel
        )

    @classmethod
    def from_options(cls, opt: SROptions, *, training: bool = False) -> Self:
        """See :meth:`Method.from_options`."""
        network = build_network(opt.network_g, "network_g", scale=opt.scale, contract=SRNetwork)
        load_weights(network, opt, "network_g", "g", optional=training)
        return cls(network)

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """Options of the authors' x4 ATD."""
        if _OF_ATD not in tensors or beside:
            return None
        return {
            "model_type": "AuxiliarySRModel",
            "scale": 4,
            "network_g": {"type": "ATD", "upscale": 4},
            "path": {"pretrain_network_g": str(path)},
        }

    def parts(self) -> Mapping[str, nn.Module]:
        """The network, under the name of UPSR's g, which it becomes."""
        return {"g": self.g}

    def replaced(self, name: str, network: nn.Module) -> Self:
        """See :meth:`Method.replaced`."""
        assert isinstance(network, SRNetwork), name
        return type(self)(network).train(self.training)

    def for_inference(self, dtype: torch.dtype) -> Self:
        """See :meth:`Method.for_inference`."""
        return super().for_inference(dtype).replaced("g", accelerated(self.g))

    @torch.inference_mode()
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """See :meth:`Method.restore`; no noise is used and nothing is shown."""
        scale, channels = self.g.scale, self.g.channels
        area = Tiles(tiles or whole_plan(lq.device), lq, self.facts.multiple, passes=1)
        image = area.blend(area.blank(channels, scale), lambda windows: self.g(area.cut(lq, windows)), scale)

        def pixels(band: Tile) -> Tensor:
            # An infinite value stays visible as such after the clamp. Asking for it here would make a GPU wait.
            values = area.cut(image, [band], scale)
            return values.masked_fill(values.isinf(), torch.nan).clamp(0, 1)

        return area.in_bands(image, pixels, scale)
