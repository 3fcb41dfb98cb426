"""Any class of a network that upscales, as g: basicsr's, spandrel's, one's own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from upsr.archs.contracts import SRNetwork
from upsr.compat import ARCH_REGISTRY
from upsr.config.components import build, component_problems
from upsr.config.load import refuse
from upsr.config.schema import NetworkComponent
from upsr.errors import UpsrError


@ARCH_REGISTRY.register()
class AnySR(SRNetwork):
    """A network by its class, which need not know :class:`SRNetwork`. Weight files have the names of that class.

    Args:
        network: the class, registered (basicsr's are: RRDBNet, EDSR, ...) or by its path, and its arguments. It maps (B, C, h, w)
            in [0, 1] to (B, C, scale*h, scale*w) in about [0, 1].
        scale, channels: what it does.
        size_multiple: h and w that it takes are multiples of it; images are padded.

    Raises:
        UpsrError: there is no such class, or it does not take these arguments.
    """

    def __init__(
        self,
        network: NetworkComponent,
        scale: Literal[1, 2, 3, 4, 8] = 4,
        channels: Literal[1, 3] = 3,
        size_multiple: Annotated[int, Field(ge=1)] = 1,
    ) -> None:
        super().__init__()
        refuse("AnySR", list(component_problems(ARCH_REGISTRY, network, "network")))
        self.network = build(ARCH_REGISTRY, network)
        self.scale, self.channels, self.size_multiple = scale, channels, size_multiple

    def forward(self, lq: Tensor) -> Tensor:
        """See :class:`SRNetwork`.

        Raises:
            UpsrError: the network's result has another size.
        """
        result: Tensor = self.network(lq)
        wanted = (lq.shape[0], self.channels, self.scale * lq.shape[2], self.scale * lq.shape[3])
        if tuple(result.shape) != wanted:
            name = type(self.network).__name__
            raise UpsrError(
                f"AnySR: {name} makes {tuple(result.shape)} of {tuple(lq.shape)}, and scale {self.scale} {wanted}"
            )
        return result

    def other_layouts(self) -> list[dict[str, Tensor]]:
        """The state dict in the class's own names; its tensors are views of the parameters."""
        return [self.network.state_dict()]
