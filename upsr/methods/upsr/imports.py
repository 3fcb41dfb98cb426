"""Option files of the released UPSR (``options/000_UPSR_RealSR_x4.yml``, ``001``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from upsr.config.imports.basicsr import COMMON
from upsr.config.imports.data_sets import DEGRADATION, in_set, kernels, pair_pool, support_holds_all
from upsr.config.imports.gan import GAN
from upsr.config.imports.rules import (
    Format,
    Left,
    Outcome,
    Place,
    Put,
    Rule,
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

_UNREAD = "not read there either"
_NOT_OF_ATD = {
    "img_size",
    "img_range",
    "upsampler",
    "resi_connection",
    "use_checkpoint",
    "patch_size",
    "norm",
    "ape",
    "qkv_bias",
}
"""Arguments of the published ATD whose values g fixes."""


def _pixel(value: Any, place: Place) -> Iterator[Outcome]:
    """The released training never builds this loss; its own is a squared error."""
    yield Put(
        "train.pixel_opt", {"type": "MSELoss", "loss_weight": 1.0, "reduction": "mean"}, f"{value['type']} is {_UNREAD}"
    )


def _perceptual(value: Any, place: Place) -> Iterator[Outcome]:
    """LPIPS with VGG's features, and its weight, which may be all that is given."""
    given = value if isinstance(value, Mapping) else {"loss_weight": value}
    weight = number(given.get("loss_weight", given.get("weight", 0.5)))
    if not weight:
        yield Left("it is off")
        return
    yield Put(
        "train.perceptual_opt", {"type": "LPIPSLoss", "loss_weight": weight, "net": "vgg", "input_range": "released"}
    )


def _auxiliary(value: Any, place: Place) -> Iterator[Outcome]:
    """The frozen network g: an ATD, and what else may stand in its section; or its weights alone."""
    if not isinstance(value, Mapping):
        yield from _other_weights(value, place)
        return
    for key, given in value.items():
        if key == "type":
            yield Put("network_aux.type", "ATD", "" if given == "ATD" else f"{given} there", of=key)
        elif _names_weights(given):
            yield Put("path.pretrain_network_aux", str(given), of=key)
        elif key == "num_heads":
            heads = given if isinstance(given, list) else [given]
            yield Put("network_aux.num_heads", whole(heads[0]), of=key)
        elif key in _NOT_OF_ATD or given is None:
            yield Left("fixed in g", of=key)
        else:
            yield Put(f"network_aux.{key}", given, of=key)


def _names_weights(value: Any) -> bool:
    return isinstance(value, str) and value.endswith((".pth", ".pt", ".safetensors"))


def _threshold(value: Any, place: Place) -> Iterator[Outcome]:
    """The largest |g(y) - y|, which is twice the paper's uncertainty; none for the full noise everywhere."""
    if number(value) <= 0:
        yield Put("uncertainty.enabled", False)
    else:
        yield Put("uncertainty.psi_max", number(value) / 2, f"{value:g} there, of |g(y) - y|")


def _micro_batch(value: Any, place: Place) -> Iterator[Outcome]:
    """Samples in one forward pass, of those of an iteration."""
    batch, micro = whole(place.get("datasets.train.batch_size_per_gpu", value)), whole(value)
    yield Put("train.accumulate", max(1, batch // micro), f"{batch} in passes of {micro}")
    yield Put("datasets.train.batch_size_per_gpu", micro)


def _stride(value: Any, place: Place) -> Iterator[Outcome]:
    """The distance of tiles, whose overlap is what is left of their side."""
    section = ".".join(place.path[:-1])
    size = whole(place.get(f"{section}.chop_size", 512))
    yield Put("val.tile.overlap", size - whole(value), f"tiles of {size} at distances of {value}")


def _half(value: Any, place: Place) -> Iterator[Outcome]:
    """Half precision while training."""
    yield Put("train.amp", "fp16" if flag(value) else "fp32")


def _respacing(value: Any, place: Place) -> Iterator[Outcome]:
    """Fewer steps than the schedule has."""
    if not value:
        yield Left("all steps, as here")
    else:
        yield Put("diffusion.sampler.steps", whole(value))
        yield Put("diffusion.sampler.spacing", "released")


_DIFFUSION: dict[str, Rule] = {
    "type": no_effect("the residual-shifting process"),
    "target": no_effect("the residual-shifting process"),
    "sf": no_effect("as scale"),
    "schedule_name": only("exponential", "the schedule is exponential"),
    **dict.fromkeys(("power", "schedule_kwargs.power"), to("diffusion.power", number)),
    "etas_end": to("diffusion.sqrt_eta_end", number),
    "steps": to("diffusion.steps", whole),
    "min_noise_level": to("diffusion.min_noise_level", number),
    "kappa": to("diffusion.kappa", number),
    "un": _threshold,
    "min_noise": to("uncertainty.b_u", number),
    "one_step": to("diffusion.one_step", flag),
    "timestep_respacing": _respacing,
    "weighted_mse": only(False, "timesteps have equal weights"),
    "predict_type": only("xstart", "the network estimates the image"),
    "scale_factor": no_effect("the unshuffled image has a factor of 1"),
    "normalize_input": only(True, "the network's input is scaled"),
    "latent_flag": no_effect("the diffusion is of unshuffled pixels"),
    "noise_repeat": not_here("every sample has noise of its own"),
    "ddim_eta": not_here("the deterministic sampler adds no noise"),
    "use_fp16": _half,
}

_ANYWHERE: dict[str, Rule] = {
    "**.chop_size": to("val.tile.size", whole),
    "**.chop_stride": _stride,
    "**.chop_bs": no_effect("tiles go through the network as memory allows"),
    "**.second_order_prob": no_effect(f"{_UNREAD}: every batch has the second round"),
    "**.resize_back": no_effect(_UNREAD),
    "**.noise_repeat": not_here("every sample has noise of its own"),
    "**.use_sharp": to("degradation.usm_gt", flag),
    "**.gt_usm": to("degradation.usm_gt", flag),
    "**.*micro*batch*": _micro_batch,
    "**.accumulate*": to("train.accumulate", whole),
    "**.color_space": no_effect("luma of BT.601"),
}

_DATA: dict[str, Rule] = {
    "gt_size": no_effect("as datasets.train.gt_size: crops are of this size from the start"),
    "queue_size": pair_pool,
    **under(
        "datasets.train",
        {
            "meta_info_file": no_effect(f"{_UNREAD}: all images of the folder are used"),
            "gt_size": in_set("gt_size", whole),
            "crop_pad_size": no_effect("crops are of gt_size from the start"),
            "rescale_gt": only(False, "crops have the photo's own resolution"),
            **kernels(support_holds_all),
        },
    ),
    **DEGRADATION,
    **under("degradation", DEGRADATION),
    **under("datasets.train", DEGRADATION),
}

_TRAIN: dict[str, Rule] = {
    "train.pixel_opt": _pixel,
    **dict.fromkeys(("train.perceptual_opt", "train.*lpips*", "train.*percep*"), _perceptual),
    **dict.fromkeys(("train.use_fp16", "train.*amp*", "use_fp16", "*amp*"), _half),
    **under("diffusion", _DIFFUSION),
    **under("diffusion.params", _DIFFUSION),
    "model_type": no_effect("method: upsr"),
    **dict.fromkeys(("path.pretrain_network_g", "path.pretrain_model_g"), to("path.pretrain_network_g", str)),
}


def _network(value: Any, place: Place) -> Iterator[Outcome]:
    """The denoiser, by its arguments' names."""
    for key, given in value.items():
        if given is None:
            yield Left("nothing is set", of=key)
        else:
            yield Put(f"network_g.{key}", "UNetModelSwin" if key == "type" else given, of=key)


def _other_weights(value: Any, place: Place) -> Iterator[Outcome]:
    """Weights of a network that is not trained, which are those of g."""
    yield Left("nothing is set") if value is None else Put("path.pretrain_network_aux", str(value))


_NETWORKS: dict[str, Rule] = dict.fromkeys(
    ("network_*", "*net*", "sr_*", "*_sr", "aux*", "*_aux", "*[aA][tT][dD]*"), _auxiliary
)

_LAST: dict[str, Rule] = {
    **dict.fromkeys(("path.pretrain*", "*.**.*ckpt*", "*.**.*pretrain*"), _other_weights),
    "path.param_key_*": no_effect("params_ema is looked for first"),
    "path.strict_load_*": no_effect("weights of g fit key by key"),
}
"""Keys of g, whatever its name there."""


def _known(data: Mapping[str, Any]) -> bool:
    """Its denoiser's name, or ResShift's diffusion, in BasicSR's layout with its own keys at the top."""
    network, diffusion = data.get("network_g"), data.get("diffusion")
    if not isinstance(network, Mapping) or (network.get("type") not in ("UNetModelSwin", None) and diffusion is None):
        return False
    own = {"resize_prob", "jpeg_range2", "queue_size", "second_order_prob", "dist_params"}
    theirs = {"un", "min_noise", "etas_end", "schedule_name", "predict_type", "latent_flag"}
    keys = diffusion.keys() if isinstance(diffusion, Mapping) else set()
    return len(own & data.keys()) + len(theirs & keys) >= 2


UPSR = Format(
    "the released UPSR",
    _known,
    joined(_ANYWHERE, _DATA, _TRAIN, {"network_g": _network}, GAN, _NETWORKS, COMMON, _LAST),
    {
        "method": "upsr",
        "network_g.type": "UNetModelSwin",
        "network_aux": {"type": "ATD", "upscale": 4},
        "train.pixel_opt": {"type": "MSELoss", "loss_weight": 1.0},
        "train.perceptual_opt": {"type": "LPIPSLoss", "loss_weight": 0.5, "net": "vgg"},
        "train.amp": "fp16",
    },
)
