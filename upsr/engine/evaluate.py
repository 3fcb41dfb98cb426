"""Restores the images of a set and measures them. Validation in training and test.py are this function."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from upsr.atomic import atomic_write
from upsr.compat import METRIC_REGISTRY
from upsr.config.components import build
from upsr.config.schema import CommonOptions, DatasetOptions
from upsr.data.datasets import build_dataset
from upsr.data.image_io import UnreadableImageError, to_uint8, write_png
from upsr.data.loader import SkippingUnreadable, batches_of, collate, set_up_worker
from upsr.engine.distributed import Runtime
from upsr.errors import UpsrError
from upsr.methods.base import Facts, Seen
from upsr.metrics import Metric, MetricUnavailableError
from upsr.restoring import Restorer

logger = logging.getLogger(__name__)

OnImage = Callable[[str, Tensor], None]
OnMeasured = Callable[[str, dict[str, float]], None]
OnDetails = Callable[[str, list[Seen]], None]


@dataclass
class Evaluation:
    """Metrics of one set.

    Attributes:
        name: of the set.
        images: key of an image: metric: value.
        unreadable: why images of the set are not among them.
        failed: why others have no restored image: what there is has another size, or values that are not finite.
        complete: whether the set was gone through; an interrupted one says nothing.
        means: metric: mean over the images that have it; metrics that no image has (no ground truth) are absent. Where an image
            has failed there are none: the rest would make a broken model look good.
    """

    name: str
    images: dict[str, dict[str, float]]
    unreadable: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    complete: bool = True
    means: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        measured = {} if self.failed else self.images
        names = list(dict.fromkeys(metric for values in measured.values() for metric in values))
        found = {name: [values[name] for values in self.images.values() if name in values] for name in names}
        self.means = {name: math.fsum(values) / len(values) for name, values in found.items()}

    def __str__(self) -> str:
        if self.failed:
            return f"{self.name}: {len(self.images)} images, {len(self.failed)} failed"
        if not self.means:
            return f"{self.name}: {len(self.images)} images, nothing to measure"
        values = ", ".join(f"{metric} {value:.4f}" for metric, value in self.means.items())
        left_out = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        return f"{self.name}: {values} ({len(self.images)} images{left_out})"

    def write(self, folder: Path, origin: Mapping[str, Any]) -> None:
        """``metrics.csv`` by image and ``summary.json``, with ``origin`` in it, in ``folder``."""
        columns = list(self.means)
        with atomic_write(folder / "metrics.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", *columns])
            writer.writerows([key, *(values.get(c, "") for c in columns)] for key, values in self.images.items())
        with atomic_write(folder / "summary.json") as path:
            summary = {"dataset": self.name, "images": len(self.images), "unreadable": self.unreadable}
            summary["failed"] = self.failed
            summary["means"] = self.means
            summary |= origin
            path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class ValidationSet:
    """A set to evaluate on, built once for a run.

    Attributes:
        scale: restored images are so many times as large as their LR images, to the pixel; ``None`` leaves that unchecked.
    """

    name: str
    dataset: Any
    batch_size: int
    num_workers: int
    scale: float | None = None


def build_validation_set(phase: str, options: DatasetOptions, max_images: int | None) -> ValidationSet:
    """A set from its section of the option file."""
    dataset = build_dataset(options)
    if max_images is not None and max_images < len(dataset):
        dataset = Subset(dataset, range(max_images))
    return ValidationSet(options.name or phase, dataset, options.batch_size_per_gpu, options.num_worker_per_gpu)


def build_metrics(opt: CommonOptions, device: torch.device) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics of ``val.metrics`` on a device, and why those that cannot be had are missing."""
    metrics: dict[str, Metric] = {}
    missing: dict[str, str] = {}
    for name, component in opt.val.metrics.items():
        try:
            metrics[name] = build(METRIC_REGISTRY, component).to(device)
        except MetricUnavailableError as error:
            missing[name] = str(error)
            logger.warning("%s is not measured: %s", name, error)
    return metrics, missing


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model outside training, for the time of the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def evaluate(
    restorer: Restorer,
    data: ValidationSet,
    metrics: Mapping[str, Metric],
    run: Runtime,
    *,
    indices: Sequence[int] | None = None,
    on_image: OnImage | None = None,
    on_measured: OnMeasured | None = None,
    on_details: OnDetails | None = None,
    detailed: int = 0,
    with_steps: bool = True,
    stopping: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Restore and measure a set.

    Processes take every world_size-th image; an image's result depends neither on that nor on the batch it is in.

    Args:
        restorer: where it raises UnreadableImageError, the image has failed, and the others go on.
        indices: of the images to restore; by default all.
        on_image: called with the key and the restored image (C, H, W) in [0, 1], on the process that restored it.
        on_measured: called with the key and the values, after ``on_image``, on that process.
        on_details: called for the first ``detailed`` images of a process, with everything there is to see of them by name:
            LR image, what the model shows of its steps, restored image, ground truth.
        with_steps: of the details also the model's steps, each of which a latent diffusion has to decode.
        stopping: asked between batches; once it is true on any process the evaluation ends incomplete.

    Returns:
        The same on every process.
    """
    wanted = list(range(len(data.dataset))) if indices is None else list(indices)
    own = Subset(SkippingUnreadable(data.dataset), wanted[run.rank :: run.world_size])
    loader = DataLoader(
        own, batch_size=data.batch_size, num_workers=data.num_workers, collate_fn=list, worker_init_fn=set_up_worker
    )
    rows: dict[str, dict[str, float]] = {}
    unreadable: list[str] = []
    failed: list[str] = []
    stopped = False
    with tqdm(total=len(own), desc=data.name, unit="image", disable=None if run.is_main else True, leave=False) as bar:
        for items in batches_of(loader):
            if stopped := stopping():
                break
            unreadable += [item["unreadable"] for item in items if "unreadable" in item]
            pending = _equally_large([item for item in items if "unreadable" not in item])
            while pending:
                batch = pending.pop(0)
                lq = batch["lq"].to(run.device)
                seen: list[Seen] = []
                show = on_details is not None and len(rows) < detailed
                try:
                    restored = restorer(lq, batch["key"], seen.append if show and with_steps else None)
                except UnreadableImageError as error:  # of finished images; it costs the others of its batch nothing
                    alone = len(batch["key"]) == 1
                    failed += [str(error)] if alone else []
                    pending[:0] = [] if alone else _one_by_one(batch)
                    continue
                for i, key in enumerate(batch["key"]):
                    if problem := _problem(lq[i], restored[i], data.scale):
                        failed.append(f"{key}: {problem}")
                        continue
                    gt = batch["gt"][i : i + 1].to(run.device) if "gt" in batch else None
                    if on_details is not None and show and len(rows) < detailed:
                        everything = [Seen("LR", lq), *seen, Seen("SR", restored)]
                        everything += [Seen("GT", batch["gt"])] if "gt" in batch else []
                        on_details(key, [replace(item, image=item.image[i]) for item in everything])
                    rows[key] = _measure(metrics, restored[i : i + 1], gt, key)
                    if on_image is not None:
                        on_image(key, restored[i])
                    if on_measured is not None:
                        on_measured(key, rows[key])
            bar.update(len(items))
    parts = run.gather((rows, unreadable, failed, stopped))
    images = {key: values for own_rows, *_ in parts for key, values in own_rows.items()}
    unreadable, failed = (sorted(message for part in parts for message in part[place]) for place in (1, 2))
    for message in (*unreadable, *failed):
        logger.warning("%s: left out: %s", data.name, message)
    complete = not any(interrupted for *_, interrupted in parts)
    return Evaluation(data.name, dict(sorted(images.items())), unreadable, failed, complete)


def _equally_large(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Batches of images of one size."""
    by_size: dict[torch.Size, list[dict[str, Any]]] = {}
    for item in items:
        by_size.setdefault(item["lq"].shape, []).append(item)
    return [collate(group) for group in by_size.values()]


def _one_by_one(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Batches of one, of the images of a batch."""
    return [{name: part[i : i + 1] for name, part in batch.items()} for i in range(len(batch["key"]))]


def _problem(lq: Tensor, restored: Tensor, scale: float | None) -> str | None:
    """Why an image is not the restoration of an LR image."""
    height, width = restored.shape[-2:]
    wanted = Facts(scale, lq.shape[0]).output_size(*lq.shape[-2:]) if scale else (height, width)
    if (height, width) != wanted:
        return f"the restored image is {width}x{height}; {scale:g} times the LR image is {wanted[1]}x{wanted[0]}"
    if not torch.isfinite(restored).all():
        return "the restored image has values that are not finite; check the weights"
    return None


def _measure(metrics: Mapping[str, Metric], sr: Tensor, gt: Tensor | None, key: str) -> dict[str, float]:
    if gt is not None:
        # A ground truth that is no multiple of the scale has a few rows or columns more than the restored image.
        extra = [have - want for have, want in zip(gt.shape[-2:], sr.shape[-2:], strict=True)]
        if not all(0 <= e < 8 for e in extra):
            raise UpsrError(
                f"{key}: the restored image is {sr.shape[-1]}x{sr.shape[-2]}, its ground truth {gt.shape[-1]}x{gt.shape[-2]}; "
                "check the set's scale and pairing"
            )
        gt = gt[..., : sr.shape[-2], : sr.shape[-1]]
    values = {}
    for name, metric in metrics.items():
        if gt is None and metric.needs_reference:
            continue
        try:
            value = metric(sr, gt if metric.needs_reference else None)
            if not math.isfinite(value):
                raise MetricUnavailableError(f"it is {value}")
            values[name] = value
        except MetricUnavailableError as error:
            logger.warning("%s: %s is not measured: %s", key, name, error)
    return values


def save_image(folder: Path, key: str, image: Tensor, suffix: str | None = None) -> None:
    """Write a restored image as ``folder/key[_suffix].png``."""
    name = key if suffix is None else f"{key}_{suffix}"
    write_png(folder / f"{name}.png", to_uint8(image))
