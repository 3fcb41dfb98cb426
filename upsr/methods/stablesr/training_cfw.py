"""Stage two of StableSR: the fusion blocks learn on sampled latents, against a discriminator (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.archs.patchgan import PatchDiscriminator
from upsr.config.schema import CommonOptions, LossComponent
from upsr.errors import UpsrError
from upsr.methods.base import Batch, Feed, Player, StatelessFeed, Training
from upsr.methods.build import Losses, train_options
from upsr.methods.latent_canvas import upsampled
from upsr.methods.stablesr.method import StableSR
from upsr.methods.stablesr.options import StableSROptions, StableSRTrainOptions


class CFWTraining(Training):
    """Mean absolute error, perceptual and adversarial loss of decoded latents at w 1; hinge loss of the discriminator.

    Until the adversarial loss starts, it and the discriminator's loss are computed and multiplied by 0, as in the released
    code: the discriminator stays as it is, as long as its optimiser has no weight decay.

    Args:
        method: its fusion blocks are trained; all else is frozen.

    Raises:
        UpsrError: it has none.
    """

    METHOD = StableSR
    method: StableSR

    def __init__(self, method: StableSR, opt: StableSRTrainOptions) -> None:
        super().__init__()
        cfw = method.autoencoder.cfw
        if cfw is None:
            raise UpsrError("cfw: phase cfw trains the fusion blocks; give the section")
        self.method = method.requires_grad_(False)
        self.weight, self.start = opt.adversarial.weight, opt.adversarial.start
        self.losses = Losses(LossComponent(type="L1Loss"), opt.perceptual_opt)
        self.discriminator = PatchDiscriminator(**opt.discriminator.model_dump())
        self.players = {
            "cfw": Player(cfw.requires_grad_(True), opt.optim_cfw, averaged=False),
            "d": Player(self.discriminator, opt.optim_d, averaged=False),
        }

    @classmethod
    def from_options(cls, opt: StableSROptions) -> Self:
        """See :meth:`Training.from_options`."""
        return cls(StableSR.from_options(opt, training=True), train_options(opt))

    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """See :meth:`Training.forward`; nothing is drawn.

        Args:
            batch: with the latent ``z_0``.
        """
        gt = 2 * batch["gt"] - 1
        started = (batch["iteration"] >= self.start).float().mean()
        if player == "d":
            real, fake = self.discriminator(gt).float(), self.discriminator(batch["restored"]).float()
            loss = started * ((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2
            return {"l_d": loss, "real": real.mean().detach(), "fake": fake.mean().detach(), "total": loss}
        x_lr = upsampled(batch["lq"], gt.shape[-2:])
        restored = self.method.autoencoder.decode(batch["z_0"], x_lr, w=1).float()
        batch["restored"] = restored.detach()
        losses = self.losses(restored, gt, generators)
        adversarial = -self.weight * started * self.discriminator(restored).float().mean()
        return {**losses, "l_gan": adversarial, "total": losses["total"] + adversarial}

    def feed(self, opt: CommonOptions) -> Feed:
        """Stored triples, without degradation."""
        return Triples(opt, self)

    def convolutional(self) -> Sequence[nn.Module]:
        """The autoencoder with the fusion blocks, the discriminator and the losses."""
        return [self.method.autoencoder, self.discriminator, self.losses]

    def refuse_crops(self, size: int, device: torch.device) -> None:
        """See :meth:`Training.refuse_crops`."""
        self.losses.refuse_crops(self.method.facts.channels, size, device)


class Triples(StatelessFeed):
    """Feeds stored triples."""

    def __init__(self, opt: Any, training: CFWTraining) -> None:
        self.opt, self.training = opt, training

    def bind(self, dataset: Any, device: torch.device) -> None:
        """See :meth:`Feed.bind`."""
        dataset.bind(self.opt.manual_seed, self.opt.degradation)
        scale = self.training.method.facts.scale
        if dataset.scale not in (None, scale):
            raise UpsrError(f"datasets.train: its triples are x{dataset.scale}, but scale is {scale:g}")
        self.training.refuse_crops(dataset.gt_size, device)

    def batch(self, raw: Mapping[str, Any], iteration: int, slots: Sequence[int]) -> tuple[Batch, list[str]]:
        """See :meth:`Feed.batch`."""
        if "z_0" not in raw:
            raise UpsrError(
                "datasets.train: phase cfw needs a TripleDataset; `upsr stablesr triples` makes the triples"
            )
        gt = raw["gt"].float() / 255
        return {"gt": gt, "lq": raw["lq"], "z_0": raw["z_0"]}, list(raw["key"])
