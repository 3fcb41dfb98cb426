"""Rules for the keys of BasicSR's layout of option files, which other projects have extended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from upsr.config.imports.data_sets import DATASETS
from upsr.config.imports.rules import (
    Left,
    Outcome,
    Place,
    Put,
    Rule,
    count,
    flag,
    folder_name,
    no_effect,
    not_here,
    number,
    numbers,
    to,
    under,
    whole,
)

_IN_LOSSES = "losses see images in [-1, 1] here, in [0, 1] there"
_PIXEL_LOSSES = {"l1loss": ("L1Loss", 0.5), "mseloss": ("MSELoss", 0.25), "charbonnierloss": ("CharbonnierLoss", 0.5)}
"""Losses of pixels by their names in small letters, and the factor of their weight in [-1, 1]."""

_WITHOUT_WEIGHTS = {"psnr": "PSNR", "ssim": "SSIM"}
_BY_PYIQA = {
    "lpips": "lpips",
    "dists": "dists",
    "clipiqa": "clipiqa",
    "musiq": "musiq",
    "maniqa": "maniqa",
    "topiq": "topiq_fr",
    "topiq_nr": "topiq_nr",
    "brisque": "brisque",
    "nrqm": "nrqm",
    "pi": "pi",
    "ilniqe": "ilniqe",
}
"""pyiqa's names of metrics by those in option files."""


def num_gpu(value: Any, place: Place) -> Iterator[Outcome]:
    """0 for the CPU; numbers of GPUs are found out when a run starts."""
    if value in ("auto", None):
        yield Put("num_gpu", "auto")
    elif whole(value) == 0:
        yield Put("num_gpu", 0)
    else:
        note = f"{value} there: torchrun --nproc_per_node={value} train.py ..." if whole(value) > 1 else ""
        yield Put("num_gpu", "auto", note)


RUN: dict[str, Rule] = {
    "name": to("name", folder_name),
    "scale": to("scale", whole),
    "num_gpu": num_gpu,
    "manual_seed": to("manual_seed", count),
    "auto_resume": to("auto_resume", flag),
    "dist_params": no_effect("processes are joined as torchrun or Slurm has started them"),
    "find_unused_parameters": no_effect("every process knows which parameters it trains"),
    **dict.fromkeys(("launcher", "dist", "rank", "world_size"), no_effect("found out when a run starts")),
    **dict.fromkeys(("is_train", "root_path"), no_effect("train.py and test.py say so")),
}


def param_key(value: Any, place: Place) -> Iterator[Outcome]:
    """The key inside a weight file."""
    usual = value in (None, "params_ema")
    yield Left("params_ema is looked for first") if usual else Put("path.param_key_g", str(value))


PATHS: dict[str, Rule] = under(
    "path",
    {
        **dict.fromkeys(("pretrain_network_g", "pretrain_model_g"), to("path.pretrain_network_g", str)),
        "param_key_g": param_key,
        **dict.fromkeys(("strict_load_g", "strict_load"), to("path.strict_load_g", flag)),
        "resume_state": not_here("states of other projects are not read; weights are: path.pretrain_network_g"),
        **dict.fromkeys(
            (
                "root",
                "experiments_root",
                "models",
                "resume_models",
                "training_states",
                "log",
                "visualization",
                "results_root",
            ),
            no_effect("a run has the folder experiments/NAME, a test results/NAME"),
        ),
    },
)


def adam(section: str) -> dict[str, Rule]:
    """The rules of an optimiser's section inside ``train``: Adam and AdamW are here."""
    target = f"train.{section}"

    def kind(value: Any, place: Place) -> Iterator[Outcome]:
        here = value in ("Adam", "AdamW")
        yield Put(f"{target}.type", value if here else "AdamW")
        if not here:
            yield Left("AdamW is taken: Adam and AdamW are here", matters=True)

    return under(
        section,
        {
            "type": kind,
            "betas": to(f"{target}.betas", numbers),
            **{key: to(f"{target}.{key}", number) for key in ("lr", "eps", "weight_decay")},
            "fused": no_effect("a matter of speed"),
            "*": not_here("the optimiser here has no such argument"),
        },
    )


def scheduler(value: Any, place: Place) -> Iterator[Outcome]:
    """Milestones, or one half cosine."""
    if value is None:
        yield Left("the rate is constant, as here", matters=False)
        return
    kind, given, read = str(value.get("type")), dict(value), {"type"}
    if kind.startswith("MultiStep"):
        read |= {"milestones", "gamma"}
        yield Put("train.scheduler.type", "MultiStepLR", of="type")
        if "milestones" in given:
            yield Put("train.scheduler.milestones", [whole(m) for m in given["milestones"]], of="milestones")
        if "gamma" in given:
            yield Put("train.scheduler.gamma", float(given["gamma"]), of="gamma")
    elif "Cosine" in kind:
        read |= {"eta_min"}
        yield Put("train.scheduler.type", "CosineLR", "half a cosine, to the last iteration", of="type")
        if "eta_min" in given:
            rate = float(place.get("train.optim_g.lr", 1e-4))
            factor = round(float(given["eta_min"]) / rate, 6)
            yield Put("train.scheduler.min_factor", factor, f"{given['eta_min']:g} of {rate:g}", of="eta_min")
    else:
        yield Left("MultiStepLR and CosineLR are here: the rate stays constant", matters=True, of="type")
    for key in (key for key in given if key not in read):
        length = given[key] if key in ("periods", "T_max") else None
        one = length is not None and numbers(length) == [float(place.get("train.total_iter", -1))]
        usual = one or given[key] in (None, [], [0], [1], 0, 1)
        yield Left("so it is here" if usual else "there are no restarts here", matters=not usual, of=key)


def pixel_loss(value: Any, place: Place) -> Iterator[Outcome]:
    """A loss of pixels, whose weight is that for images in another range."""
    kind = str(value.get("type"))
    if not value or kind.lower() not in _PIXEL_LOSSES:
        yield Left("no such loss of pixels is here" if value else "there is none", matters=bool(value))
        return
    name, factor = _PIXEL_LOSSES[kind.lower()]
    yield from loss_parts("train.pixel_opt", name, value, factor)


def loss_parts(target: str, name: str, value: Mapping[str, Any], factor: float) -> Iterator[Outcome]:
    """A loss with its weight and other arguments."""
    yield Put(f"{target}.type", name, of="type")
    weight = float(value.get("loss_weight", 1.0))
    yield Put(f"{target}.loss_weight", weight * factor, f"{weight:g} there: {_IN_LOSSES}", of="loss_weight")
    if "reduction" in value:
        yield Put(f"{target}.reduction", value["reduction"], of="reduction")
    if "eps" in value:
        yield Put(f"{target}.eps", 4 * float(value["eps"]), f"{value['eps']:g} there: {_IN_LOSSES}", of="eps")


TRAIN: dict[str, Rule] = under(
    "train",
    {
        "total_iter": to("train.total_iter", whole),
        "warmup_iter": to("train.warmup_iter", count),
        "ema_decay": to("train.ema_decay", number),
        **adam("optim_g"),
        "scheduler": scheduler,
        "pixel_opt": pixel_loss,
    },
)


def metric(value: Any, place: Place) -> Iterator[Outcome]:
    """A metric by the name of its type, or by its own."""
    arguments = dict(value) if isinstance(value, Mapping) else {}
    given = str(arguments.get("type", place.path[-1])).lower().removeprefix("calculate_")
    name = given.removesuffix("_pt")
    target = f"val.metrics.{place.path[-1]}"
    of = "type" if "type" in arguments else ""
    if name in _WITHOUT_WEIGHTS:
        note = "" if name != given else "of images in float, of 8 bit there"
        yield Put(f"{target}.type", _WITHOUT_WEIGHTS[name], note, of=of)
        for key, ours, convert in (("test_y_channel", "y_channel", bool), ("crop_border", "crop_border", whole)):
            yield Put(f"{target}.{ours}", convert(arguments.get(key) or 0), of=key if key in arguments else of)
    elif name == "niqe":
        yield Put(f"{target}.type", "NIQE", "pyiqa's, on the whole image", of=of)
    elif name in _BY_PYIQA:
        yield Put(f"{target}.type", "PyIQA", of=of)
        yield Put(f"{target}.metric", _BY_PYIQA[name], of=of)
    else:
        yield Left("no such metric is here", matters=True, of=of)
    read = {"type", *(("test_y_channel", "crop_border") if name in _WITHOUT_WEIGHTS else ())}
    for key in (key for key in arguments if key not in read):
        yield Left("follows from the metric", of=key)


VALIDATION: dict[str, Rule] = under(
    "val",
    {
        "val_freq": to("val.val_freq", whole),
        "save_img": to("val.save_img", flag),
        "suffix": to("val.suffix", str),
        "pbar": no_effect("the log has a line for each set"),
        "metrics.*": metric,
    },
)


def wandb(value: Any, place: Place) -> Iterator[Outcome]:
    """A run at Weights & Biases, if a project is named."""
    given = dict(value or {})
    if given.get("project") is None:
        yield Left("no project is named")
        return
    yield Put("logger.wandb.project", str(given["project"]), of="project")
    if "resume_id" in given:
        run = given["resume_id"]
        yield (
            Left("nothing is set", of="resume_id")
            if run is None
            else Put("logger.wandb.run_id", str(run), of="resume_id")
        )


LOGGING: dict[str, Rule] = under(
    "logger",
    {
        "print_freq": to("logger.print_freq", whole),
        "save_checkpoint_freq": to("logger.save_checkpoint_freq", whole),
        "save_checkpoint_format": to("logger.weight_formats", lambda value: [str(value)]),
        "use_tb_logger": to("logger.use_tb_logger", flag),
        "wandb": wandb,
    },
)

COMMON: dict[str, Rule] = {**RUN, **DATASETS, **PATHS, **TRAIN, **VALIDATION, **LOGGING}
"""The keys that all projects of this layout have."""
