"""The adversarial losses of DM-SR, of logits that are large for latents of photos (Eq. 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class AdversarialLoss(NamedTuple):
    """Both sides of one form.

    Attributes:
        discriminator: of its logits for photos and for restored images.
        generator: of the logits for restored images.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


LOSSES: Mapping[str, AdversarialLoss] = {
    "non_saturating": AdversarialLoss(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake: F.softplus(-fake).mean(),
    ),
    "hinge": AdversarialLoss(
        lambda real, fake: (1 - real).relu().mean() + (1 + fake).relu().mean(),
        lambda fake: -fake.mean(),
    ),
}
