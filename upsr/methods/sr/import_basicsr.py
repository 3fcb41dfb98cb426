"""Option files of BasicSR and Real-ESRGAN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from upsr.config.imports.basicsr import COMMON
from upsr.config.imports.data_sets import (
    DEGRADATION,
    in_set,
    kernel_sizes,
    kernels,
    makes_pairs,
    odd,
    pair_pool,
    when_degrading,
)
from upsr.config.imports.gan import GAN
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
    only,
    to,
    under,
    whole,
)

PRESET = {
    "method": "sr",
    "train.ema_decay": 0,
    "train.pixel_opt": {"type": "L1Loss", "loss_weight": 0.0},
    "val.tile": None,
}


@dataclass(frozen=True)
class Known:
    """A class of networks that :class:`upsr.archs.any_sr.AnySR` can hold.

    Attributes:
        path: its name in the registry, or where it is.
        scale, channels: its arguments of these meanings.
        defaults: arguments that files need not give, where they are not those of the class.
        multiple: argument that LR sides are multiples of; by default any size is taken.
        adapted: from the arguments and the scale, the arguments that the class takes.
    """

    path: str
    scale: str = "upscale"
    channels: str = "num_in_ch"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    multiple: str = ""
    adapted: Callable[[dict[str, Any], int], dict[str, Any]] = lambda arguments, scale: arguments


NETWORKS = {
    "EDSR": Known("EDSR"),
    "RCAN": Known("RCAN"),
    "MSRResNet": Known("MSRResNet"),
    "RRDBNet": Known("RRDBNet", "scale"),
    "ECBSR": Known("ECBSR", "scale"),
    "SRVGGNetCompact": Known("SRVGGNetCompact"),
    "SwinIR": Known("SwinIR", channels="in_chans", defaults={"window_size": 7}, multiple="window_size"),
}
"""Networks of basicsr that upscale images."""

_SPANDREL = "spandrel.architectures"
FORKS = {
    "HAT": Known(f"{_SPANDREL}.HAT.HAT", channels="in_chans"),
    "DAT": Known(f"{_SPANDREL}.DAT.DAT", channels="in_chans"),
    "ATD": Known(f"{_SPANDREL}.ATD.ATD", channels="in_chans"),
    "RGT": Known(f"{_SPANDREL}.RGT.RGT", channels="in_chans"),
    "DRCT": Known(f"{_SPANDREL}.DRCT.DRCT", channels="in_chans"),
    "CRAFT": Known(f"{_SPANDREL}.CRAFT.CRAFT", channels="in_chans"),
    "Swin2SR": Known(f"{_SPANDREL}.Swin2SR.Swin2SR", channels="in_chans"),
    "OmniSR": Known(f"{_SPANDREL}.OmniSR.OmniSR", "up_scale"),
    "SAFMN": Known(f"{_SPANDREL}.SAFMN.SAFMN", "upscaling_factor"),
    "SPAN": Known(f"{_SPANDREL}.SPAN.SPAN"),
}
"""Networks of projects that build on BasicSR, as spandrel has them."""

MODELS = ("SRModel", "SRGANModel", "ESRGANModel", "SwinIRModel")
DATA_SETS = ("PairedImageDataset", "SingleImageDataset")
REAL_MODELS = ("RealESRNetModel", "RealESRGANModel")
_SIGNS = {"second_blur_prob", "resize_prob2", "high_order_degradation", "l1_gt_usm", "gt_usm"}


def network(names: Mapping[str, Known]) -> Rule:
    """The rule of ``network_g``: a class that is known, or else the file of its weights, in which spandrel finds it."""

    def rule(value: Any, place: Place) -> Iterator[Outcome]:
        kind = str(value["type"])
        known, weights = names.get(kind), place.get("path.pretrain_network_g") or place.get("path.pretrain_model_g")
        arguments = {key: given for key, given in value.items() if key != "type"}
        if known is not None:
            yield from _held(known, arguments, place)
        elif weights is not None and place.get("train") is None:
            yield Put("network_g.type", "SpandrelSR", f"{kind}, if spandrel knows it", of="type")
            yield Put("network_g.path", str(weights), of="type")
            for key in arguments:
                yield Left("spandrel finds it in the weight file", of=key)
        else:
            note = "there is no such network here: name your class by its path (docs/extending.md)"
            yield Put("network_g.type", kind, note, of="type")
            for key, given in arguments.items():
                yield Put(f"network_g.{key}", given, of=key)

    return rule


def _held(known: Known, arguments: Mapping[str, Any], place: Place) -> Iterator[Outcome]:
    """A class in an :class:`upsr.archs.any_sr.AnySR`."""
    wanted = whole(place.get("scale", 4))
    scale = whole(arguments.get(known.scale, wanted))
    given = {**known.defaults, **arguments}
    multiple = whole(given[known.multiple]) if known.multiple else _unshuffled(known, scale)
    yield Put("network_g.type", "AnySR", of="type")
    disagrees = f"but scale is {wanted}: train.py and test.py refuse it until they agree" if scale != wanted else ""
    yield Put("network_g.scale", scale, disagrees, of="type")
    yield Put("network_g.channels", whole(given.get(known.channels, 3)), of="type")
    if multiple > 1:
        yield Put("network_g.size_multiple", multiple, of="type")
    yield Put("network_g.network.type", known.path, of="type")
    taken = {known.scale: scale, **known.adapted(given, scale)}
    for key, value in taken.items():
        yield Put(f"network_g.network.{key}", value, of=key if key in arguments else "type")
    for key in arguments.keys() - taken.keys():
        yield Left("other arguments of the class here say it", of=key)


def _unshuffled(known: Known, scale: int) -> int:
    """RRDBNet below x4 begins with a pixel unshuffle."""
    return 4 // scale if known.path == "RRDBNet" and scale < 4 else 1


def perceptual_loss(value: Any, place: Place) -> Iterator[Outcome]:
    """Distances of VGG's features."""
    if not value or value.get("type") != "PerceptualLoss":
        yield Left("no such loss of features is here" if value else "there is none", matters=bool(value))
        return
    yield Put("train.perceptual_opt.type", "VGGLoss", of="type")
    for key in ("layer_weights", "vgg_type", "use_input_norm", "perceptual_weight", "style_weight", "criterion"):
        if key in value:
            yield Put(f"train.perceptual_opt.{key}", value[key], of=key)
    if "range_norm" in value:
        off = not flag(value["range_norm"])
        yield Left(
            "images are brought to [0, 1]" if off else "images are in [0, 1] for VGG", matters=not off, of="range_norm"
        )


def sharpened(value: Any, place: Place) -> Iterator[Outcome]:
    """An unsharp mask of the ground truth: here of what is degraded and of the targets of both losses, or of none."""
    if makes_pairs(place):
        yield Put(
            "degradation.usm_gt", flag(value), "of the targets of pixel and perceptual loss, and of what is degraded"
        )
    else:
        yield Left("targets of stored pairs are as they are", matters=flag(value))


def sharpened_alike(value: Any, place: Place) -> Iterator[Outcome]:
    """The perceptual loss has the target of the pixel loss."""
    yield Left("its target is as l1_gt_usm says", matters=flag(value) != flag(place.get("l1_gt_usm", value)))


def listed(value: Any, place: Place) -> Iterator[Outcome]:
    """A list of images; of Real-ESRGAN's pairs it names both sides in a line."""
    if place.get("datasets.train.type") == "RealESRGANPairedDataset":
        yield Left(
            "a list of pairs is not read: dataroot_gt and dataroot_lq name a folder each, partners have one name", True
        )
    else:
        yield from in_set("meta_info", str)(value, place)


def tile(value: Any, place: Place) -> Iterator[Outcome]:
    """The side of tiles, which there is that of what is kept of them, without the padding on both sides."""
    padding = 2 * whole(place.get("tile.tile_pad", 0))
    yield Put("val.tile.size", whole(value) + padding, "with the padding on both sides" if padding else "")


def weights_of_g(value: Any, place: Place) -> Iterator[Outcome]:
    """The weight file of g; which of two sets of weights in it is read, where the file does not say."""
    differs = "param_key_g" not in place.get("path", {})
    note = (
        "of a file with params and params_ema, params are read there and params_ema here: path.param_key_g says which"
    )
    yield Put("path.pretrain_network_g", str(value), note if differs else "") if value else Left("nothing is set")


def _seven_to_21(stage: str) -> Rule:
    """Kernels of sides from 7 to 21, whatever the support is."""
    return kernel_sizes(stage, 21, lambda support: odd(7, 21))


_OWN: dict[str, Rule] = {
    "model_type": no_effect("method: sr, a network that upscales by itself"),
    "network_g": network({**NETWORKS, **FORKS}),
    "train.perceptual_opt": perceptual_loss,
    "tile.tile_size": tile,
    "tile.tile_pad": to("val.tile.overlap", lambda pad: 2 * whole(pad), "pixels on both sides"),
}
_OLDER: dict[str, Rule] = {
    **dict.fromkeys(("gpu_ids", "set_CUDA_VISIBLE_DEVICES"), no_effect("GPUs are those that a run is started on")),
    "train.niter": to("train.total_iter", whole),
    "train.manual_seed": to("manual_seed", count),
    "save_img": to("val.save_img", flag),
    "suffix": to("val.suffix", str),
    "crop_border": no_effect("metrics say what they leave out"),
    "datasets.*.batch_size": in_set("batch_size_per_gpu", whole),
    "datasets.*.num_worker": in_set("num_worker_per_gpu", count),
    "datasets.*.task": no_effect("images are upscaled"),
}
"""Keys of earlier versions of BasicSR, and of forks."""

SR = joined(_OWN, _OLDER, GAN, COMMON, {"train.*_opt": not_here("no such loss is here")})

REAL: dict[str, Rule] = {
    "gt_usm": sharpened,
    "l1_gt_usm": sharpened,
    "percep_gt_usm": sharpened_alike,
    "gan_gt_usm": only(False, "a discriminator sees photos as they are"),
    "queue_size": pair_pool,
    "datasets.train.meta_info": listed,
    "high_order_degradation": no_effect("the type of datasets.train says whether pairs are made or read"),
    "gt_size": when_degrading(to("datasets.train.gt_size", whole, "cropped before the degradation, of 400 there")),
    **under(
        "datasets.train", {**kernels(_seven_to_21), "crop_pad_size": no_effect("crops are of gt_size from the start")}
    ),
    **DEGRADATION,
}
"""The keys that Real-ESRGAN has besides BasicSR's."""


def _is_real(data: Mapping[str, Any]) -> bool:
    """A model of Real-ESRGAN, or one of a fork with its degradation."""
    return data.get("model_type") in REAL_MODELS or (bool(_SIGNS & data.keys()) and _of_basicsr(data))


def _is_basicsr(data: Mapping[str, Any]) -> bool:
    return not _is_real(data) and _of_basicsr(data)


def _of_basicsr(data: Mapping[str, Any]) -> bool:
    """A model of basicsr, or one of a fork with basicsr's data sets."""
    kind, sets = data.get("model_type"), data.get("datasets")
    given = [entry for entry in (sets.values() if isinstance(sets, Mapping) else ()) if isinstance(entry, Mapping)]
    theirs = "dist_params" in data or any("io_backend" in entry or entry.get("type") in DATA_SETS for entry in given)
    other = isinstance(kind, str) and theirs
    return "network_g" in data and "diffusion" not in data and (kind in MODELS or other)


_WEIGHTS: dict[str, Rule] = dict.fromkeys(("path.pretrain_network_g", "path.pretrain_model_g"), weights_of_g)
"""traiNNer-redux looks for params_ema first, as is done here."""

BASICSR = Format("BasicSR", _is_basicsr, joined(_WEIGHTS, SR), PRESET)
REAL_ESRGAN = Format("Real-ESRGAN", _is_real, joined(_WEIGHTS, REAL, SR), PRESET)
