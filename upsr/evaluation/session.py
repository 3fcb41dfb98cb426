"""One evaluation: every method on every dataset with every seed, by every protocol; what is finished is not done again."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from upsr.atomic import sweep, writable_folder
from upsr.config.schema import TileOptions
from upsr.data.image_io import to_uint8, write_png
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import ValidationSet, evaluate
from upsr.engine.logging import setup_logging
from upsr.engine.setup import configure_backends
from upsr.errors import UpsrError
from upsr.evaluation import latent_diffusion  # noqa: F401  (registers a method)
from upsr.evaluation.benchmarks import BENCHMARKS, Benchmark, Findings, check
from upsr.evaluation.methods import (
    Method,
    MethodDescription,
    MissingWeightsError,
    WrongWeightsError,
    describe,
    make_ready,
    origin,
)
from upsr.evaluation.protocols import PROTOCOLS, Instruments, build_instruments
from upsr.evaluation.results import Format, Journal, Row, rows_of, summarise, write_rows, write_summary
from upsr.metrics import MetricUnavailableError
from upsr.metrics.iqa import metric_weights_folder
from upsr.provenance import digest_of, machine, versions

logger = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What to evaluate.

    Attributes:
        datasets, methods, protocols: names or paths of descriptions; methods see :func:`upsr.evaluation.methods.describe`.
        seeds: each method that draws noise restores every image once with each.
        folder: of the results.
        datasets_root: folder that holds the datasets.
        pairs: datasets by method, to leave the others out; ``None`` for every method on every dataset.
        metrics: names of those to measure; ``None`` for all of the protocols.
        max_images: only the first images of each set.
        tile: how large images are cut; ``None`` for what a method's options say.
        save_images: write the restored images; set metrics and the report need them.
        form: of the table by image.
        metric_weights: local folder of pyiqa's weights.
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    folder: Path
    seeds: tuple[int, ...] = (0,)
    datasets_root: Path = Path("datasets")
    pairs: Mapping[str, Collection[str]] | None = None
    metrics: tuple[str, ...] | None = None
    max_images: int | None = None
    batch_size: int = 1
    num_workers: int = 0
    tile: TileOptions | None = None
    save_images: bool = True
    form: Format = "csv"
    metric_weights: Path | None = None


@dataclass(frozen=True)
class Unavailable:
    """Why there are no numbers of a method, on one dataset or (``None``) on any.

    Attributes:
        status: ``missing``: something is not here; ``wrong``: it is, but is not what its name promises.
    """

    method: str
    dataset: str | None
    status: str
    reason: str

    @classmethod
    def because(cls, method: str, dataset: str | None, error: UpsrError) -> Unavailable:
        """Of what ``make_ready`` or a method's restorer has raised."""
        return cls(method, dataset, "wrong" if isinstance(error, WrongWeightsError) else "missing", str(error))


@dataclass(frozen=True)
class _OpenSet:
    """A dataset of the plan."""

    description: Benchmark
    data: ValidationSet
    findings: Findings
    keys: list[str]
    has_gt: bool


def run_evaluation(plan: Plan, run: Runtime) -> dict[str, Any]:
    """Evaluate, or finish an evaluation that was interrupted.

    Returns:
        The summary that is also written, the same on every process.

    Raises:
        UpsrError: a description has mistakes, or a dataset cannot be used.
    """
    writable_folder(plan.folder)
    setup_logging(run, plan.folder / "evaluation.log")
    configure_backends(run.device)
    if plan.metric_weights is not None:
        metric_weights_folder(plan.metric_weights)
    descriptions = [describe(name) for name in plan.methods]
    _refuse_repetition("method", [description.name for description in descriptions])
    _refuse_repetition("dataset", list(plan.datasets))
    protocols = [PROTOCOLS.read(name) for name in plan.protocols]
    sets = [_open(BENCHMARKS.read(name), plan, run) for name in plan.datasets]
    instruments = build_instruments(protocols, run.device, plan.metrics)
    if run.is_main:
        for measure, reason in instruments.missing.items():
            logger.warning("%s is not measured: %s", measure, reason)
        for folder in (plan.folder, *plan.folder.glob("images/*/*/*")):
            sweep(folder)
    run.barrier()

    worker = _Worker(plan, run, instruments)
    for description in descriptions:
        worker.evaluate_method(description, sets)
    worker.journal.close()
    run.barrier()
    summary = worker.summary(sets, [protocol.model_dump() for protocol in protocols])
    if not worker.rows and plan.pairs is None:
        raise UpsrError(
            "nothing could be evaluated: " + "; ".join(f"{u.method}: {u.reason}" for u in worker.unavailable)
        )
    if run.is_main:
        write_rows(plan.folder, worker.rows, plan.form)
        write_summary(plan.folder, summary)
        logger.info("results in %s", plan.folder)
    return summary


class _Worker:
    """Goes through methods, seeds and datasets, and collects what comes out."""

    def __init__(self, plan: Plan, run: Runtime, instruments: Instruments) -> None:
        self.plan, self.run, self.instruments = plan, run, instruments
        folder = plan.folder / "journal"
        if run.is_main:
            writable_folder(folder)
        run.barrier()
        self.journal = Journal(folder, run.rank)
        self.known = run.from_main(self.journal.read())
        self.rows: list[Row] = []
        self.set_values: list[dict[str, Any]] = []
        self.methods: dict[str, Any] = {}
        self.works: dict[str, Any] = {}
        self.unavailable: list[Unavailable] = []
        self.unreadable: dict[str, list[str]] = {}

    def evaluate_method(self, description: MethodDescription, sets: Sequence[_OpenSet]) -> None:
        """On all sets, with all seeds."""
        try:
            method = make_ready(description, self.run.device, self.plan.tile)
        except (MissingWeightsError, WrongWeightsError) as error:
            self._cannot(description.name, None, error)
            return
        self.methods[description.name] = origin(description, method)
        for data in sets:
            if self.plan.pairs is not None and data.description.name not in self.plan.pairs[description.name]:
                continue
            try:
                if method.scale not in (None, data.description.scale):
                    raise MissingWeightsError(
                        f"x{method.scale}, but {data.description.name} is x{data.description.scale}"
                    )
                for seed in self.plan.seeds if method.draws else self.plan.seeds[:1]:
                    self._evaluate(description.name, method, data, seed)
            except MissingWeightsError as error:
                self._cannot(description.name, data.description.name, error)

    def _evaluate(self, name: str, method: Method, data: _OpenSet, seed: int) -> None:
        dataset = data.description.name
        identity = {
            "method": self.methods[name],
            "dataset": {"name": dataset, "names_sha256": data.findings.facts["names_sha256"]},
            "measures": self.instruments.records,
            "seed": seed if method.draws else None,
        }
        work = digest_of(identity)[:16]
        self.works[work] = {"method": name, "dataset": dataset, "seed": seed}
        known = {key: self.known[work][key] for key in data.keys if key in self.known.get(work, {})}
        todo = [i for i, key in enumerate(data.keys) if key not in known]
        if known:
            logger.info(
                "%s on %s, seed %d: %d of %d images are finished", name, dataset, seed, len(known), len(data.keys)
            )
        images = known
        if todo:
            pictures = self.pictures(name, seed, dataset)
            result = evaluate(
                method.restorer(seed, dataset, data.keys),
                data.data,
                self.instruments.metrics,
                self.run,
                indices=todo,
                on_image=(lambda key, image: write_png(pictures / f"{key}.png", to_uint8(image)))
                if self.plan.save_images
                else None,
                on_measured=lambda key, values: self.journal.add(work, key, values),
                on_details=(lambda key, seen: self._keep_map(name, dataset, key, seen))
                if self.plan.save_images
                else None,
                detailed=len(todo),
            )
            images = known | result.images
            if result.unreadable:
                self.unreadable[dataset] = result.unreadable
            logger.info("%s, seed %d: %s", name, seed, result)
        self.rows += rows_of(work, dataset, name, seed, images)
        self._measure_set(name, dataset, seed, data)

    def _measure_set(self, name: str, dataset: str, seed: int, data: _OpenSet) -> None:
        """Metrics of the whole set, on the main process: they take folders of finished images."""
        if not self.instruments.set_metrics or not data.has_gt:
            return
        values: dict[str, float] = {}
        if self.run.is_main:
            for measure, metric in self.instruments.set_metrics.items():
                try:
                    if not self.plan.save_images:
                        raise MetricUnavailableError("it needs the restored images; leave out --no_images")
                    reference = Path(data.data.dataset.sides()["gt"][0].root)
                    values[measure] = metric(self.pictures(name, seed, dataset), reference)
                except MetricUnavailableError as error:
                    self.instruments.missing[measure] = str(error)
        self.set_values.append({"dataset": dataset, "method": name, "seed": seed, "values": self.run.from_main(values)})

    def pictures(self, method: str, seed: int, dataset: str) -> Path:
        """Folder of restored images."""
        return self.plan.folder / "images" / method / f"seed_{seed}" / dataset

    def _keep_map(self, method: str, dataset: str, key: str, seen: Mapping[str, Tensor]) -> None:
        """Write the uncertainty of a method that has one, as a grey picture on which psi_max is white."""
        if "uncertainty" in seen:
            grey = seen["uncertainty"].mean(dim=0, keepdim=True)
            write_png(self.plan.folder / "uncertainty" / method / dataset / f"{key}.png", to_uint8(grey))

    def _cannot(self, method: str, dataset: str | None, error: UpsrError) -> None:
        item = Unavailable.because(method, dataset, error)
        self.unavailable.append(item)
        logger.warning("%s%s: %s: %s", method, f" on {dataset}" if dataset else "", item.status, error)

    def summary(self, sets: Sequence[_OpenSet], protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Everything that is known of the numbers."""
        return {
            "format": _FORMAT,
            "name": self.plan.folder.name,
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(sys.argv),
            "versions": versions(),
            "machine": machine(self.run.device) | {"processes": self.run.world_size},
            "seeds": list(self.plan.seeds),
            "max_images": self.plan.max_images,
            "protocols": {protocol["name"]: dict(protocol) for protocol in protocols},
            "measures": self.instruments.records,
            "missing_measures": self.instruments.missing,
            "datasets": {
                data.description.name: {
                    "about": data.description.about,
                    "licence": data.description.licence,
                    "scale": data.description.scale,
                    "has_gt": data.has_gt,
                    "evaluated": len(data.keys),
                    "doubts": data.findings.doubts,
                    **data.findings.facts,
                }
                for data in sets
            },
            "datasets_root": str(self.plan.datasets_root),
            "methods": self.methods,
            "works": self.works,
            "unavailable": [asdict(item) for item in self.unavailable],
            "unreadable": self.unreadable,
            "results": summarise(self.rows) + self._set_results(),
        }

    def _set_results(self) -> list[dict[str, Any]]:
        """Entries like those of :func:`summarise`, with each set as one observation."""
        rows = [
            row
            for entry in self.set_values
            for row in rows_of("", entry["dataset"], entry["method"], entry["seed"], {"the whole set": entry["values"]})
        ]
        return summarise(rows)


def _open(benchmark: Benchmark, plan: Plan, run: Runtime) -> _OpenSet:
    findings = check(benchmark, plan.datasets_root, decode=False)
    if findings.problems:
        raise UpsrError("; ".join(f"{benchmark.name}: {problem}" for problem in findings.problems))
    if run.is_main:
        for doubt in findings.doubts:
            logger.warning("%s: %s; numbers are not comparable with published ones", benchmark.name, doubt)
    dataset = benchmark.open(plan.datasets_root)
    keys = list(dataset.keys)[: plan.max_images]
    sides = dataset.sides()
    data = ValidationSet(benchmark.name, dataset, plan.batch_size, plan.num_workers)
    return _OpenSet(benchmark, data, findings, keys, has_gt="gt" in sides)


def _refuse_repetition(kind: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UpsrError(f"the {kind} '{repeated[0]}' is given twice; its results would overwrite each other")
