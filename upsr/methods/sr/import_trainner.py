"""Option files of traiNNer-redux."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from upsr.config.imports.basicsr import pixel_loss
from upsr.config.imports.data_sets import kernels, odd, when_degrading
from upsr.config.imports.gan import GAN, UNTRAINED, adversarial, gan_loss
from upsr.config.imports.rules import (
    Format,
    Left,
    Outcome,
    Place,
    Put,
    Rule,
    count,
    flag,
    joined,
    no_effect,
    not_here,
    number,
    only,
    to,
    under,
    whole,
)
from upsr.methods.sr.import_basicsr import PRESET, REAL, SR, network
from upsr.methods.sr.trainner_networks import NETWORKS

_SIGNS = {"use_amp", "amp_bf16", "use_channels_last", "fast_matmul", "high_order_degradation", "use_compile"}
_KERNELS = (5, 17)
_PIXELS = ("l1loss", "mseloss", "charbonnierloss")


def _precision(value: Any, place: Place) -> Iterator[Outcome]:
    """Half precision, of two kinds."""
    kind = "bf16" if flag(place.get("amp_bf16", False)) else "fp16"
    yield Put("train.amp", kind if flag(value) else "fp32") if place.get("train") else Left("it is for training")


def _in_training(key: str, convert: Any) -> Rule:
    """The rule of a key at the top of the file that is for training."""
    return lambda value, place: (
        [Put(f"train.{key}", convert(value))] if place.get("train") else [Left("it is for training")]
    )


def _compiled(value: Any, place: Place) -> Iterator[Outcome]:
    """The mode of torch.compile, if it is on."""
    mode = str(place.get("compile_mode", "default")) if flag(value) else "none"
    yield Put("train.compile", mode) if place.get("train") else Left("it is for training")


def _ranges(blur: str) -> Rule:
    """Sides of kernels from a range, of which the largest is what others are padded to."""

    def rule(value: Any, place: Place) -> Iterator[Outcome]:
        sizes = odd(whole(value[0]), whole(value[1]))
        yield Put(f"{blur}.kernel_sizes", sizes)
        yield Put(f"{blur}.support", sizes[-1])

    return rule


def _support(stage: str) -> Rule:
    """The size that kernels are padded to; where their range is not given, it is from 5 to 17."""
    key = f"datasets.train.kernel_range{'2' if stage == 'second' else ''}"

    def rule(value: Any, place: Place) -> Iterator[Outcome]:
        if place.get(key) is not None:
            yield Left(f"kernels are padded to the largest of {key.rpartition('.')[2]}")
        else:
            yield from _ranges(f"degradation.{stage}.blur")(_KERNELS, place)

    return rule


def _accumulated(value: Any, place: Place) -> Iterator[Outcome]:
    """Micro-batches of an iteration."""
    yield Put("train.accumulate", whole(value)) if place.path[1] == "train" else Left("whole images are restored")


def _clipped(value: Any, place: Place) -> Iterator[Outcome]:
    """Clipping is at a norm of 1 there."""
    yield Put("train.max_grad_norm", 1.0) if flag(value) else Left("it is off")


def _losses(value: Any, place: Place) -> Iterator[Outcome]:
    """The first loss of pixels; others of the list have no like here."""
    taken = False
    for index, loss in enumerate(value):
        kind = str(loss.get("type")).lower()
        if not number(loss.get("loss_weight", 1.0)):
            yield Left("its weight is 0", of=str(index))
        elif kind == "ganloss":
            yield from gan_loss(loss, place, str(index)) if adversarial(place) else [Left(UNTRAINED, True, str(index))]
        elif kind in _PIXELS and not taken:
            taken = True
            yield from (_of(outcome, str(index)) for outcome in pixel_loss(loss, place))
        else:
            yield Left(
                f"no {kind} is here" if kind not in _PIXELS else "one loss of pixels is here",
                matters=True,
                of=str(index),
            )


def _of(outcome: Outcome, index: str) -> Outcome:
    if isinstance(outcome, Left):
        return Left(outcome.reason, outcome.matters, index)
    return Put(outcome.key, outcome.value, outcome.note, index)


def _validated(rule: Rule) -> Rule:
    """The rule of a validation set, which counts where validation is on."""
    return lambda value, place: (
        rule(value, place)
        if place.path[1] == "train" or flag(place.get("val.val_enabled", True))
        else [Left("val.val_enabled is false")]
    )


def _tile(value: Any, place: Place) -> Iterator[Outcome]:
    """The side of tiles, 0 for whole images."""
    if not whole(value):
        yield Put("val.tile", None, "whole images")
        return
    yield Put("val.tile.size", whole(value))
    yield Put("val.tile.overlap", whole(place.get("val.tile_overlap", 8)))


def _measured(value: Any, place: Place) -> Iterator[Outcome]:
    """Metrics, if they and the sets are on."""
    if not flag(place.get("val.val_enabled", True)):
        yield Left("val.val_enabled is false")
    elif not flag(place.get("val.metrics_enabled", False)):
        yield Left("val.metrics_enabled is false")
    else:
        yield from SR["val.metrics.*"](value, place)


_DEGRADATION: dict[str, Rule] = {
    "blur_prob": when_degrading(to("degradation.first.blur_prob", number)),
    "blur_prob2": when_degrading(to("degradation.second.blur_prob", number)),
    **dict.fromkeys(("jpeg_prob", "jpeg_prob2"), when_degrading(only(1.0, "every LR image is compressed"))),
    **{
        pattern: when_degrading(not_here("area, bilinear and bicubic are drawn, equally often"))
        for pattern in ("resize_mode_list*", "resize_mode_prob*")
    },
    **dict.fromkeys(("thicklines_prob", "lq_usm"), not_here("there is no such degradation")),
    "lq_usm_radius_range": no_effect("part of lq_usm"),
    "dataroot_lq_prob": not_here("pairs are either made or read"),
    "high_order_degradations_debug*": no_effect("upsr data preview shows what is made"),
    **under(
        "datasets.train",
        {
            **kernels(_support),
            "kernel_range": when_degrading(_ranges("degradation.first.blur")),
            "kernel_range2": when_degrading(_ranges("degradation.second.blur")),
            "final_kernel_range": when_degrading(_ranges("degradation.final")),
        },
    ),
}

_RUN: dict[str, Rule] = {
    "network_g": network(NETWORKS),
    "use_amp": _precision,
    "amp_bf16": no_effect("part of use_amp"),
    "use_channels_last": _in_training("channels_last", flag),
    "use_compile": _compiled,
    "compile_mode": no_effect("part of use_compile"),
    "fast_matmul": no_effect("products of matrices are in TF32 on GPUs"),
    "deterministic": no_effect("a run on the CPU repeats bit for bit"),
    "detect_anomaly": not_here("train.guard skips steps that are not finite"),
    "watch": no_effect("files are read when a run starts"),
    "onnx": no_effect("upsr export writes other formats"),
    "network_ae": not_here("no autoencoder is trained"),
    "*_pixel_format": only("rgb", "images are in colour"),
    "path.*_ae*": not_here("no autoencoder is trained"),
    "path.ignore_resume_networks": no_effect("states of other projects are not read"),
    "path.pretrain_network_*_path": no_effect("train.py says so"),
    "path.pretrain_network_*_ema": no_effect("averaged weights are saved alone"),
}

_SETS: dict[str, Rule] = {
    "datasets.train.accum_iter": _accumulated,
    "datasets.*.clip_size": not_here("there are no videos"),
    "datasets.*.accum_iter": no_effect("whole images are restored"),
}

_TRAIN: dict[str, Rule] = under(
    "train",
    {
        "losses": _losses,
        "grad_clip": _clipped,
        "ema_power": not_here("the average has one decay from the start"),
        "ema_switch_iter": not_here("the average never replaces what is trained"),
        "ema_update_after_step": not_here("the average begins with the first step"),
        "optim_ae": not_here("no autoencoder is trained"),
        "adaptive_d*": no_effect("part of the discriminator's training"),
        "use_moa": not_here("images are flipped and transposed, not mixed"),
        "moa_*": no_effect("part of train.use_moa"),
        "match_lq_colors": not_here("colours of ground truths stay"),
        "warmup_iter": to("train.warmup_iter", count),
    },
)

_VALIDATION: dict[str, Rule] = under(
    "val",
    {
        "val_enabled": no_effect("without validation the sets are left out"),
        "metrics_enabled": no_effect("without it the metrics are left out"),
        "tile_size": _tile,
        "tile_overlap": no_effect("part of val.tile_size"),
        "metrics.*": _measured,
    },
)


def _known(data: Mapping[str, Any]) -> bool:
    """Small letters in the names of networks and data sets, and keys of its own; no ``model_type``."""
    kind = data.get("network_g", {}).get("type") if isinstance(data.get("network_g"), Mapping) else None
    validation = data.get("val")
    signs = len(_SIGNS & data.keys()) + (isinstance(validation, Mapping) and "val_enabled" in validation)
    return "model_type" not in data and "method" not in data and isinstance(kind, str) and signs >= 1


_TABLES = joined(_RUN, _SETS, _TRAIN, _VALIDATION, GAN, _DEGRADATION, REAL, SR)
_RULES = {pattern: _validated(rule) if pattern.startswith("datasets.*.") else rule for pattern, rule in _TABLES.items()}

_KERNELS_UNSAID = {"kernel_sizes": odd(*_KERNELS), "support": _KERNELS[1], "sinc_prob": 0.0}


def _unsaid(stage: str, **more: Any) -> dict[str, Any]:
    """What a round of the degradation does there where a file does not say: neither blur nor noise."""
    off = {"blur_prob": 0.0, "gaussian_noise_prob": 0.0, "noise_range": [0, 0], "poisson_scale_range": [0, 0]}
    values = {**off, "gray_noise_prob": 0.0, "jpeg_range": [75, 95], **more}
    return {f"degradation.{stage}.{key}": value for key, value in values.items()} | {
        f"degradation.{stage}.blur.{key}": value for key, value in _KERNELS_UNSAID.items()
    }


_DEFAULTS = {
    **_unsaid("first", resize_range=[0.4, 1.5], **{"blur.blur_sigma": [0.2, 2]}),
    **_unsaid("second", resize_range=[0.6, 1.2], **{"blur.blur_sigma": [0.2, 1]}),
    **{f"degradation.final.{key}": value for key, value in _KERNELS_UNSAID.items()},
}

TRAINNER = Format("traiNNer-redux", _known, _RULES, {**PRESET, **_DEFAULTS})
