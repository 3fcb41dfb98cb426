"""One evaluation: every entry on every dataset with every seed, by every protocol. Finished images are not done again."""

from __future__ import annotations

import dataclasses
import logging
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from upsr.atomic import sweep, writable_folder
from upsr.data.image_io import to_uint8, write_png
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import Evaluation, evaluate
from upsr.engine.logging import setup_logging
from upsr.engine.setup import configure_backends
from upsr.errors import UpsrError
from upsr.evaluation.benchmarks import BENCHMARKS
from upsr.evaluation.earlier import Earlier, Finder
from upsr.evaluation.entries import (
    Entry,
    EntryDescription,
    MissingWeightsError,
    WrongWeightsError,
    describe,
    make_ready,
    origin,
)
from upsr.evaluation.plan import Plan, Unavailable
from upsr.evaluation.protocols import PROTOCOLS, Instruments, build_instruments
from upsr.evaluation.results import (
    SUMMARY,
    Journal,
    Measured,
    Row,
    rows_of,
    summarise,
    write_rows,
    write_summary,
)
from upsr.evaluation.statistics import INTERVAL
from upsr.evaluation.work import (
    WHOLE_SET,
    OpenSet,
    Work,
    content_of_set,
    digest_of_file,
    finished,
    made_of,
    map_of,
    maps_of,
    open_set,
    pictures_of,
)
from upsr.methods.base import Seen
from upsr.metrics import MetricUnavailableError, SetMetric
from upsr.metrics.iqa import metric_weights_folder
from upsr.provenance import machine, versions

logger = logging.getLogger(__name__)

_FORMAT = 1


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
    descriptions = [(given, describe(given)) for given in plan.methods]
    _refuse_repetition("method", [description.name for _, description in descriptions])
    _refuse_repetition("dataset", [BENCHMARKS.read(name).name for name in plan.datasets])
    protocols = [PROTOCOLS.read(name) for name in plan.protocols]
    sets = [_open(name, plan, run) for name in plan.datasets]
    instruments = build_instruments(protocols, run.device, plan.metrics)
    if run.is_main:
        for measure, reason in instruments.missing.items():
            logger.warning("%s is not measured: %s", measure, reason)
        for folder in (plan.folder, *(path for path in plan.folder.rglob("*") if path.is_dir())):
            sweep(folder)
    run.barrier()

    worker = _Worker(plan, run, instruments, {protocol.name: protocol.model_dump() for protocol in protocols})
    for given, description in descriptions:
        worker.evaluate_entry(given, description, sets)
    worker.journal.close()
    run.barrier()
    earlier = run.from_main(worker.earlier(sets) if run.is_main and plan.with_earlier else Earlier())
    summary = worker.summary(sets, earlier)
    nothing = not worker.rows and plan.pairs is None
    if run.is_main and (not nothing or (plan.folder / SUMMARY).is_file()):
        write_rows(plan.folder, [*worker.rows, *earlier.rows], plan.form)
        write_summary(plan.folder, summary)
        logger.info("results in %s", plan.folder)
    if nothing:
        reasons = [f"{item.method}: {item.reason}" for item in worker.unavailable]
        raise UpsrError(f"nothing could be evaluated: {'; '.join(reasons) or 'no measure is defined for these images'}")
    return summary


class _Worker:
    """Evaluates entries on datasets with seeds, and collects the results."""

    def __init__(self, plan: Plan, run: Runtime, instruments: Instruments, protocols: dict[str, Any]) -> None:
        self.plan, self.run, self.instruments, self.protocols = plan, run, instruments, protocols
        folder = plan.folder / "journal"
        if run.is_main:
            writable_folder(folder)
        run.barrier()
        self.journal = Journal(folder, run.rank)
        self.known = self.journal.read() if run.is_main else {}
        self.rows: list[Row] = []
        self.set_rows: list[Row] = []
        self.methods: dict[str, Any] = {}
        self.reads: dict[str, Any] = {}
        self.works: dict[str, Any] = {}
        self.unavailable: list[Unavailable] = []
        self.left_out: dict[str, list[str]] = {}

    def evaluate_entry(self, given: str, description: EntryDescription, sets: Sequence[OpenSet]) -> None:
        """Evaluate an entry on all sets, with all seeds."""
        name = description.name
        try:
            entry = make_ready(description, self.run.device, self.plan.tile)
        except (MissingWeightsError, WrongWeightsError) as error:
            self._cannot(name, None, error)
            return
        self.methods[name], self.reads[name] = origin(description, entry), entry.reads
        for data in sets:
            if self.plan.pairs is not None and data.name not in self.plan.pairs[name]:
                continue
            try:
                if misfit := entry.misfit(data.name, data.description.scale, data.channels):
                    raise MissingWeightsError(misfit)
                for seed in self.plan.seeds if entry.draws else (0,):
                    work = Work.of(
                        method=name, given=given, tile=self.plan.tile, origin=self.methods[name], data=data, seed=seed,
                        draws=entry.draws, measures=self.instruments.records, protocols=self.protocols,
                    )  # fmt: skip
                    self._evaluate(work, entry, data)
            except (MissingWeightsError, WrongWeightsError) as error:
                self._cannot(name, data.name, error)

    def _evaluate(self, work: Work, entry: Entry, data: OpenSet) -> None:
        made = made_of(data, entry.reads)
        restorer = entry.restorer(work.seed, data.name, data.keys)
        pictures = self.pictures(work.method, work.seed, data.name)
        images: dict[str, dict[str, float]] = {}
        if self.run.is_main:
            self.journal.describe(work.id, dataclasses.asdict(work))
            known = self.known.get(work.id, {})
            images = finished(known, made, pictures, with_pictures=self.plan.save_images)
        images = self.run.from_main(images)
        todo = [i for i, key in enumerate(data.keys) if key not in images]
        if images:
            logger.info(
                "%s on %s, seed %d: %d of %d images are finished",
                work.method, data.name, work.seed, len(images), len(data.keys),
            )  # fmt: skip
        if todo:
            result = evaluate(
                restorer,
                data.data,
                self.instruments.metrics,
                self.run,
                indices=todo,
                on_image=lambda key, image: self._keep_picture(pictures / f"{key}.png", image),
                on_measured=lambda key, values: self.journal.add(
                    work.id, key, Measured(made.get(key, ""), digest_of_file(pictures / f"{key}.png"), values)
                ),
                on_details=lambda key, seen: self._keep_map(work.method, data.name, key, seen),
                detailed=len(todo),
                with_steps=entry.has_maps,
            )
            images = images | result.images
            self._note_left_out(work, data, images.keys(), result)
            logger.info("%s, seed %d: %s", work.method, work.seed, result)
        self.works[work.id] = {"method": work.method, "dataset": data.name, "seed": work.seed}
        self.rows += rows_of(work.id, data.name, work.method, work.seed, images, data.contents)
        self._measure_set(work, data, made, sorted(images))

    def _note_left_out(self, work: Work, data: OpenSet, images: Collection[str], result: Evaluation) -> None:
        """Note why images are left out, and remove earlier results of them.

        Raises:
            WrongWeightsError: all are left out.
        """
        if self.run.is_main:
            for key in set(data.keys) - set(images):
                (self.pictures(work.method, work.seed, data.name) / f"{key}.png").unlink(missing_ok=True)
                self._remove_maps(work.method, data.name, key)
        messages = self.left_out.setdefault(data.name, [])
        messages += [message for message in result.unreadable if message not in messages]
        messages += [f"{work.method}: {message}" for message in result.failed]
        if not images:
            raise WrongWeightsError(f"none of {len(data.keys)} images could be measured: {messages[-1]}")

    def _measure_set(self, work: Work, data: OpenSet, made: Mapping[str, str], keys: Sequence[str]) -> None:
        """Metrics of the whole set, on the main process: they take folders of finished images."""
        if not self.instruments.set_metrics or not data.has_gt:
            return
        values: dict[str, float] = {}
        if self.run.is_main:
            pictures = self.pictures(work.method, work.seed, data.name)
            content = content_of_set(data, made, pictures, keys)
            kept = self.known.get(work.id, {}).get(WHOLE_SET, [])
            values = next((dict(item.values) for item in kept if item.content == content), {})
            absent = self.instruments.set_metrics.keys() - values.keys()
            for measure in absent:
                try:
                    values[measure] = self._value_of_set(self.instruments.set_metrics[measure], data, pictures, keys)
                except MetricUnavailableError as error:
                    self.instruments.missing[measure] = str(error)
            if absent & values.keys():
                self.journal.add(work.id, WHOLE_SET, Measured(content, None, values))
        found = {WHOLE_SET: self.run.from_main(values)}
        self.set_rows += rows_of(work.id, data.name, work.method, work.seed, found)

    def _value_of_set(self, metric: SetMetric, data: OpenSet, pictures: Path, keys: Sequence[str]) -> float:
        """Value of the pictures of these images alone: others may lie beside them."""
        if not self.plan.save_images:
            raise MetricUnavailableError("it needs the restored images; leave out --no-images")
        reference = Path(data.data.dataset.sides()["gt"][0].root)
        with tempfile.TemporaryDirectory() as folder:
            for key in keys:
                link = Path(folder) / f"{key}.png"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((pictures / f"{key}.png").resolve())
            value = metric(Path(folder), reference)
        if not math.isfinite(value):
            raise MetricUnavailableError(f"of {data.name} it is {value}")
        return value

    def pictures(self, method: str, seed: int, dataset: str) -> Path:
        """Folder of restored images."""
        return pictures_of(self.plan.folder, method, seed, dataset)

    def _keep_picture(self, path: Path, image: Tensor) -> None:
        """Write a restored image, or remove an earlier one."""
        if self.plan.save_images:
            write_png(path, to_uint8(image))
        else:
            path.unlink(missing_ok=True)

    def _keep_map(self, method: str, dataset: str, key: str, seen: Sequence[Seen]) -> None:
        """Write the first map that a method shows, as a grey picture."""
        found = next((item for item in seen if item.kind == "map"), None)
        if found is not None and self.plan.save_images:
            path = map_of(self.plan.folder, found.name, method, dataset, key)
            write_png(path, to_uint8(found.image.mean(dim=0, keepdim=True)))
        else:
            self._remove_maps(method, dataset, key)

    def _remove_maps(self, method: str, dataset: str, key: str) -> None:
        for path in maps_of(self.plan.folder, method, dataset, key).values():
            path.unlink()

    def _cannot(self, method: str, dataset: str | None, error: UpsrError) -> None:
        item = Unavailable.because(method, dataset, error)
        self.unavailable.append(item)
        logger.warning("%s%s: %s: %s", method, f" on {dataset}" if dataset else "", item.status, error)

    def earlier(self, sets: Sequence[OpenSet]) -> Earlier:
        """Results in the folder beside those of this evaluation."""
        finder = Finder(
            self.journal,
            self.pictures,
            {data.name: data for data in sets},
            {name: (made_by, self.reads[name]) for name, made_by in self.methods.items()},
            self.instruments.records,
        )
        gone = {item.method for item in self.unavailable if item.dataset is None}
        said = {(item.method, item.dataset) for item in self.unavailable}
        return finder.find([*self.rows, *self.set_rows], {*self.works, *gone}, said)

    def summary(self, sets: Sequence[OpenSet], earlier: Earlier) -> dict[str, Any]:
        """Means and all facts that the numbers depend on."""
        for (method, dataset), reason in earlier.not_shown.items():
            self._cannot(
                method, dataset, MissingWeightsError(f"measured earlier, not shown: {reason}; evaluate it again")
            )
        rows, set_rows = [*self.rows, *earlier.rows], [*self.set_rows, *earlier.set_rows]
        return {
            "format": _FORMAT,
            "name": self.plan.folder.name,
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(sys.argv),
            "versions": versions(),
            "machine": machine(self.run.device) | {"processes": self.run.world_size},
            "seeds": sorted({*self.plan.seeds, *(row.seed for row in rows)}),
            "max_images": self.plan.max_images,
            "interval": INTERVAL,
            "protocols": {**self.protocols, **earlier.protocols},
            "measures": {**self.instruments.records, **earlier.measures},
            "missing_measures": self.instruments.missing,
            "datasets": {data.name: data.facts() for data in sets} | earlier.datasets,
            "datasets_root": str(self.plan.datasets_root),
            "methods": {**self.methods, **earlier.methods},
            "works": {**self.works, **earlier.works},
            "unavailable": [asdict(item) for item in self.unavailable],
            "unreadable": {name: messages for name, messages in self.left_out.items() if messages},
            "results": summarise(rows) + summarise(set_rows),
        }


def _open(given: str, plan: Plan, run: Runtime) -> OpenSet:
    data = open_set(
        given,
        plan.datasets_root,
        run,
        max_images=plan.max_images,
        batch_size=plan.batch_size,
        num_workers=plan.num_workers,
    )
    if run.is_main:
        for doubt in data.findings.doubts:
            logger.warning("%s: %s; numbers are not comparable with published ones", data.name, doubt)
    return data


def _refuse_repetition(kind: str, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UpsrError(f"the {kind} '{repeated[0]}' is given twice; its results would overwrite each other")
