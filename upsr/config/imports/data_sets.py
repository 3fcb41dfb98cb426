"""Rules for the data sets and the degradation in BasicSR's layout of option files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

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
    only,
    to,
    under,
    whole,
)

PAIRS = "PairedCropsDataset"
"""The training set of stored pairs."""

_TRAINED_ON = {
    "realesrgandataset": "RealESRGANDataset",
    "pairedimagedataset": PAIRS,
    "realesrganpaireddataset": PAIRS,
}
_MEASURED_ON = {
    "pairedimagedataset": "PairedFolderDataset",
    "realesrganpaireddataset": "PairedFolderDataset",
    "singleimagedataset": "FolderDataset",
}
"""Data sets by their names in small letters."""

_VIDEOS = ("video", "reds", "vimeo", "recurrent")


def set_name(place: Place) -> str:
    """The key of a data set here: ``train``, or one that begins with ``val``; ``_2`` and so on where that is taken."""
    return _set_names(place.source["datasets"])[place.path[1]]


def _set_names(keys: Iterable[str]) -> dict[str, str]:
    """Keys of data sets here by those there. Keys that can stay come first, so that none of them is renamed."""
    names: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: not _stays(key)):
        name = key if _stays(key) else _renamed(key)
        endings = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
        names[key] = next(name + ending for ending in endings if name + ending not in names.values())
    return names


def _stays(key: str) -> bool:
    return key == "train" or key.startswith("val")


def _renamed(key: str) -> str:
    return f"val{key.removeprefix('test')}" if key.startswith("test") else f"val_{key}"


def in_set(key: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """The rule of a key of a data set."""

    def rule(value: Any, place: Place) -> Iterator[Outcome]:
        target = f"datasets.{set_name(place)}.{key}"
        yield Left("nothing is set") if value is None else Put(target, convert(value))

    return rule


def _kind(value: Any, section: Mapping[str, Any], training: bool) -> str | None:
    """The name here of a data set, by its name there or else by the folders that it reads; ``None`` for one of
    videos, or that makes pairs of one folder in a way of its own."""
    name = str(value).lower()
    names, paired = (_TRAINED_ON, PAIRS) if training else (_MEASURED_ON, "PairedFolderDataset")
    if name in names:
        return names[name]
    if {"num_frame", "clip_size", "interval_list"} & section.keys() or any(word in name for word in _VIDEOS):
        return None
    if section.get("dataroot_gt") is None:
        return "FolderDataset" if section.get("dataroot_lq") is not None and not training else None
    if section.get("dataroot_lq") is not None:
        return paired if section["dataroot_lq"] != section["dataroot_gt"] else None
    return "RealESRGANDataset" if training else "BicubicFolderDataset"


def set_type(value: Any, place: Place) -> Iterator[Outcome]:
    """The type of a data set."""
    section = f"datasets.{set_name(place)}"
    found = _kind(value, place.get(".".join(place.path[:2]), {}), place.path[1] == "train")
    known = found is not None and str(value).lower() in {**_TRAINED_ON, **_MEASURED_ON}
    key = place.path[1]
    notes = [
        "" if known else f"{value} there, by its folders" if found else "there is no such data set here",
        "" if set_name(place) in (key, _renamed(key)) else f"{key} there; {_renamed(key)} is another set",
    ]
    yield Put(f"{section}.type", found or str(value), "; ".join(filter(None, notes)))
    if found in (PAIRS, "BicubicFolderDataset"):
        yield Put(f"{section}.scale", whole(place.get("scale", 4)))
    if found == PAIRS:
        yield Put("pair_pool.pairs_per_slot", 0)


def folder(key: str) -> Rule:
    """The rule of a data set's folder, of which a list may be given."""

    def rule(value: Any, place: Place) -> Iterator[Outcome]:
        target = f"datasets.{set_name(place)}.{key}"
        if not isinstance(value, list):
            yield Left("nothing is set") if value is None else Put(target, str(value))
            return
        if value:
            yield Put(target, str(value[0]))
        if len(value) != 1:
            yield Left(
                "a set has one folder, of any depth, or shards (upsr data shards): the first is taken", matters=True
            )

    return rule


def makes_pairs(place: Place) -> bool:
    """True where LR images are made while training, and not read."""
    section = place.get("datasets.train", {})
    return _kind(section.get("type"), section, training=True) != PAIRS


def when_degrading(rule: Rule) -> Rule:
    """The rule of a key of the degradation, which pairs in files are not put through."""
    return lambda value, place: rule(value, place) if makes_pairs(place) else [Left("stored pairs are not degraded")]


def pair_pool(value: Any, place: Place) -> Iterator[Outcome]:
    """Pairs of a process's pool, as pairs for each sample of the batch."""
    if not makes_pairs(place):
        yield Left("stored pairs are mixed already")
        return
    batch = whole(place.get("datasets.train.batch_size_per_gpu", 1)) * whole(place.get("datasets.train.accum_iter", 1))
    pairs = whole(value)
    exactly = "" if pairs % batch == 0 else ", rounded down"
    yield Put("pair_pool.pairs_per_slot", pairs // batch, f"{pairs} pairs for a batch of {batch}{exactly}")


def crop(value: Any, place: Place) -> Iterator[Outcome]:
    """The side of training crops in a data set; one at the top of the file is that of what is trained on."""
    if place.get("gt_size") is not None and makes_pairs(place):
        yield Left("gt_size at the top of the file counts there")
    else:
        yield Put("datasets.train.gt_size", whole(value))


def lr_crop(value: Any, place: Place) -> Iterator[Outcome]:
    """The side of training crops in LR pixels."""
    scale = whole(place.get("scale", 4))
    yield Put("datasets.train.gt_size", scale * whole(value), f"{value} LR pixels at x{scale}")


def rotation(value: Any, place: Place) -> Iterator[Outcome]:
    """Quarter turns, which are a vertical flip and a transposition besides the horizontal flip."""
    yield Put("datasets.train.use_vflip", flag(value))
    yield Put("datasets.train.use_rot", flag(value))


def colour(value: Any, place: Place) -> Iterator[Outcome]:
    """``y`` for luma alone."""
    if value == "y":
        yield Put(f"datasets.{set_name(place)}.channels", 1, "grey here, luma of BT.601 there")
    else:
        yield Left("in colour, as here")


_LOADING: dict[str, Rule] = {
    "io_backend": no_effect("folders, lmdb and shards are recognised by their path"),
    "use_shuffle": only(True, "samples are in random order"),
    "dataset_enlarge_ratio": no_effect("samples come from one endless stream"),
    "phase": no_effect("follows from the name of the set"),
    "scale": no_effect("the run's scale counts"),
    **dict.fromkeys(
        ("prefetch_mode", "num_prefetch_queue", "prefetch_factor", "pin_memory", "persistent_workers", "cpu_cache"),
        no_effect("batches are always read ahead"),
    ),
    **dict.fromkeys(("mean", "std"), not_here("images are in [0, 1]")),
    "color": colour,
    "name": in_set("name", folder_name),
    "batch_size_per_gpu": in_set("batch_size_per_gpu", whole),
    "num_worker_per_gpu": in_set("num_worker_per_gpu", count),
    "dataroot_gt": folder("dataroot_gt"),
    "dataroot_lq": folder("dataroot_lq"),
    "dataroot": folder("dataroot_lq"),
    "filename_tmpl": in_set("filename_tmpl", str),
    "meta_info": in_set("meta_info", str),
    "meta_info_file": in_set("meta_info", str),
}

DATASETS: dict[str, Rule] = {
    **under(
        "datasets.train",
        {
            "type": set_type,
            "gt_size": crop,
            "lq_size": lr_crop,
            **dict.fromkeys(("use_hflip", "use_flip"), in_set("use_hflip", flag)),
            "use_vflip": in_set("use_vflip", flag),
            "use_rot": rotation,
            **_LOADING,
        },
    ),
    **under(
        "datasets.*",
        {
            "type": set_type,
            **dict.fromkeys(
                ("gt_size", "lq_size", "use_hflip", "use_flip", "use_rot"), no_effect("whole images are restored")
            ),
            **_LOADING,
        },
    ),
}

_STAGE = (
    "resize_prob", "resize_range", "gaussian_noise_prob", "noise_range", "poisson_scale_range", "gray_noise_prob", "jpeg_range",
)  # fmt: skip
_ALONE = {"gaussian_noise_prob", "gray_noise_prob"}  # numbers, the others are lists

DEGRADATION: dict[str, Rule] = {
    **{key: when_degrading(to(f"degradation.first.{key}", number if key in _ALONE else numbers)) for key in _STAGE},
    **{
        f"{key}2": when_degrading(to(f"degradation.second.{key}", number if key in _ALONE else numbers))
        for key in _STAGE
    },
    "second_blur_prob": when_degrading(to("degradation.second.blur_prob", number)),
}
"""Noise, resizing and JPEG of the two rounds."""


def kernels(support: Callable[[str], Rule]) -> dict[str, Rule]:
    """The keys of a data set that describe blur kernels.

    Args:
        support: from the section of the target (``first``, ``second``) the rule of ``blur_kernel_size``.
    """
    lists = ("kernel_prob", "blur_sigma", "betag_range", "betap_range")
    rules: dict[str, Rule] = {"final_sinc_prob": when_degrading(to("degradation.final.sinc_prob", number))}
    for ending, stage in (("", "first"), ("2", "second")):
        blur = f"degradation.{stage}.blur"
        rules |= {f"{key}{ending}": when_degrading(to(f"{blur}.{key}", numbers)) for key in lists}
        rules[f"kernel_list{ending}"] = when_degrading(to(f"{blur}.kernel_list"))
        rules[f"sinc_prob{ending}"] = when_degrading(to(f"{blur}.sinc_prob", number))
        rules[f"blur_kernel_size{ending}"] = when_degrading(support(stage))
    return rules


def odd(first: int, last: int) -> list[int]:
    """Odd numbers in a range."""
    return [size for size in range(first, last + 1) if size % 2]


def kernel_sizes(stage: str, least_support: int, sizes: Callable[[int], list[int]]) -> Rule:
    """Support and sides of kernels, by ``blur_kernel_size``; those of the last filter are as the second round's."""

    def rule(value: Any, place: Place) -> Iterator[Outcome]:
        for blur in (f"degradation.{stage}.blur", *(["degradation.final"] if stage == "second" else [])):
            yield Put(f"{blur}.support", max(least_support, whole(value)))
            yield Put(f"{blur}.kernel_sizes", sizes(whole(value)))

    return rule


def support_holds_all(stage: str) -> Rule:
    """Kernels of sides from 3 to two less than their support."""
    return kernel_sizes(stage, 0, lambda support: odd(3, support - 2))
