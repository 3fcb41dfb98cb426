"""The best loss that can be had where the training runs."""

from __future__ import annotations

import logging

from torch import Tensor, nn

from upsr.compat import LOSS_REGISTRY
from upsr.config.components import build, component_problems
from upsr.config.load import refuse
from upsr.config.schema import LossComponent
from upsr.errors import UpsrError

logger = logging.getLogger(__name__)


class LossUnavailableError(UpsrError):
    """A loss whose weights can be had neither from a file nor from a hub; another loss may do."""


@LOSS_REGISTRY.register()
class FirstAvailableLoss(nn.Module):
    """The first of several losses whose weights can be had; the log says which and why.

    With it one option file trains with LPIPS where its backbone is here or can be fetched, and without where it is not.

    Args:
        losses: components of registered losses, the preferred one first.

    Raises:
        UpsrError: none can be had.
    """

    def __init__(self, losses: list[LossComponent]) -> None:
        super().__init__()
        where = "train.perceptual_opt.losses"
        refuse(where, [p for i, loss in enumerate(losses) for p in component_problems(LOSS_REGISTRY, loss, f"[{i}]")])
        reasons = []
        for component in losses:
            try:
                self.chosen = build(LOSS_REGISTRY, component)
            except LossUnavailableError as error:
                reasons.append(f"{component.type}: {error}")
                continue
            logger.info("perceptual loss: %s%s", component.type, "".join(f"; not {reason}" for reason in reasons))
            return
        raise LossUnavailableError(f"{where}: none of them can be had: {'; '.join(reasons) or 'the list is empty'}")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of two batches, as the chosen one takes them."""
        return self.chosen(prediction, target)
