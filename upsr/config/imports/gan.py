"""Rules for the discriminator of files in BasicSR's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from upsr.config.imports.basicsr import adam
from upsr.config.imports.rules import Left, Outcome, Place, Put, Rule, count, no_effect, only, under, whole

_DISCRIMINATORS = {name.lower(): name for name in ("UNetDiscriminatorSN", "VGGStyleDiscriminator")}
"""By their names in small letters; basicsr has them."""

_ARGUMENTS = ("gan_type", "loss_weight", "real_label_val", "fake_label_val")
_KNOWN = ", ".join(_DISCRIMINATORS.values())
UNTRAINED = f"no discriminator is trained: it takes network_d, one of {_KNOWN}, and an adversarial loss"
"""Why what belongs to a discriminator is left out."""


def adversarial(place: Place) -> bool:
    """True for a file that trains a discriminator that is here: neither it nor its loss is of use alone."""
    losses = place.get("train.losses", [])
    listed = any(isinstance(loss, Mapping) and str(loss.get("type")).lower() == "ganloss" for loss in losses)
    return str(place.get("network_d.type", "")).lower() in _DISCRIMINATORS and (
        listed or bool(place.get("train.gan_opt"))
    )


def against(rule: Rule) -> Rule:
    """The rule of a key of a discriminator's training."""

    def checked(value: Any, place: Place) -> Iterator[Outcome]:
        if not value:
            yield Left("it is off")
        elif adversarial(place):
            yield from rule(value, place)
        else:
            yield Left(UNTRAINED, matters=True)

    return checked


def gan_loss(value: Any, place: Place, of: str = "") -> Iterator[Outcome]:
    """The adversarial loss, whose weight is the same here: images are judged in [0, 1].

    Args:
        of: place in a list of losses; by default ``value`` is a section of its own.
    """
    relativistic = place.get("model_type") == "ESRGANModel"
    yield Put("train.gan_opt.type", "GANLoss", "relativistic there" if relativistic else "", of or "type")
    for key in _ARGUMENTS:
        if key in value:
            yield Put(f"train.gan_opt.{key}", value[key], of=of or key)


def _network(value: Any, place: Place) -> Iterator[Outcome]:
    for key, given in value.items():
        yield Put(f"network_d.{key}", _DISCRIMINATORS[str(given).lower()] if key == "type" else given, of=key)


def _weights(value: Any, place: Place) -> Iterator[Outcome]:
    yield Put("path.pretrain_network_d", str(value))


def _start(value: Any, place: Place) -> Iterator[Outcome]:
    yield Put("train.gan_start", count(value), "other losses are trained on before")


def _one_each(value: Any, place: Place) -> Iterator[Outcome]:
    once = whole(value) == 1
    yield Left("both are trained in every iteration", matters=not once)


GAN: dict[str, Rule] = {
    "network_d": against(_network),
    "path.pretrain_network_d": against(_weights),
    "path.param_key_d": no_effect("params_ema is looked for first, then params"),
    "path.strict_load_d": only(True, "weights of network_d fit key by key"),
    **under(
        "train",
        {
            **{key: against(rule) for key, rule in adam("optim_d").items()},
            "gan_opt": against(gan_loss),
            "net_d_iters": against(_one_each),
            "net_d_init_iters": against(_start),
        },
    ),
}
