"""Stage one: pretraining of g."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upsr.archs.contracts import SRNetwork
from upsr.compat import MODEL_REGISTRY
from upsr.config.schema import Options
from upsr.diffusion import PixelUnshuffleCodec
from upsr.diffusion.sampling import NoiseSource
from upsr.methods.base import Observer, Purpose, RestorationModel
from upsr.methods.build import Losses, build_losses, build_network, load_or_refuse


@MODEL_REGISTRY.register()
class AuxiliarySRModel(RestorationModel):
    """A plain SR network trained on degraded pairs; its checkpoint is stage two's ``path.pretrain_network_aux``.

    The released g came from such a training (paper, Sec. 4.1); the recipe itself was not published. It restores photos as a
    :class:`upsr.methods.UPSRModel` of no steps does.

    Attributes:
        timesteps: none.
    """

    network_g: SRNetwork
    timesteps: Sequence[int] = ()

    def __init__(self, network_g: SRNetwork, *, scale: int, channels: int, losses: Losses | None = None) -> None:
        super().__init__()
        self.network_g = network_g
        self.scale = scale
        self.channels = channels
        self.size_multiple = network_g.size_multiple
        self.codec = PixelUnshuffleCodec(scale)
        self.losses = losses

    @classmethod
    def from_options(cls, opt: Options, purpose: Purpose) -> AuxiliarySRModel:
        """See :meth:`RestorationModel.from_options`."""
        network_g = build_network(opt.network_g, "network_g", scale=opt.scale, contract=SRNetwork)
        if not network_g.carries_weights:
            load_or_refuse(
                network_g,
                opt.path.pretrain_network_g,
                "g",
                key="path.pretrain_network_g",
                param_key=opt.path.param_key_g,
                strict=opt.path.strict_load_g,
                optional=purpose == "train" or opt.path.allow_random_weights,
            )
        losses = build_losses(opt) if purpose == "train" else None
        return cls(network_g, scale=opt.scale, channels=network_g.channels, losses=losses)

    def forward(self, lq: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`RestorationModel.forward`; only the place of the perceptual loss is drawn."""
        if self.losses is None:
            raise RuntimeError("the model was built for testing and has no losses")
        return self.losses(2 * self.network_g(lq) - 1, 2 * gt - 1, generators)

    def first_estimate(self, lq: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1] -> (B, C, s*h, s*w) in [-1, 1], not clamped."""
        return 2 * self.network_g(lq).float() - 1

    def restore(self, lq: Tensor, noise: NoiseSource, observe: Observer | None = None) -> Tensor:
        """See :meth:`RestorationModel.restore`; no noise is used."""
        return self.network_g(lq).clamp(0, 1)
