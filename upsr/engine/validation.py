"""Validation during training: what is measured, shown and recorded, and which was the best."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from upsr.atomic import atomic_write
from upsr.config.problems import did_you_mean
from upsr.config.schema import CommonOptions
from upsr.engine.distributed import Runtime
from upsr.engine.evaluate import ValidationSet, build_metrics, build_validation_set, evaluate, save_image
from upsr.engine.fitting import refuse_misfits
from upsr.engine.pictures import strip
from upsr.engine.sinks import CsvSink, Row, Sinks, read_rows
from upsr.errors import UpsrError
from upsr.methods.base import Method, Seen
from upsr.metrics import Metric
from upsr.restoring import ModelRestorer

logger = logging.getLogger(__name__)

RECORD = "validation.csv"
BEST = "best.json"


class Validation:
    """The validation sets of a run and the record of what was measured: ``validation.csv``, ``best.json``.

    Args:
        method: which the sets must fit.

    Raises:
        UpsrError: a set does not fit the model, a metric cannot be had, or ``logger.keep_best`` names what is not there.
    """

    def __init__(self, opt: CommonOptions, run: Runtime, folder: Path, method: Method) -> None:
        self.opt, self.run, self.folder = opt, run, folder
        self.sets = []
        for phase, options in opt.validation_sets.items():
            data = build_validation_set(phase, options, opt.val.max_images)
            refuse_misfits(phase, data, method.facts)
            self.sets.append(data)
        self.metrics, missing = build_metrics(opt, run.device)
        if missing:  # a week later it would be too late
            raise UpsrError(f"val.metrics: {'; '.join(missing.values())}; or leave them out with null")
        self.best = Best(opt, self.metrics)

    def is_missing(self, iteration: int) -> bool:
        """Whether no validation of this iteration is on record; the same on every process."""
        rows = read_rows(self.folder / RECORD)
        return bool(self.sets) and self.run.from_main(not any(row[0] == str(iteration) for row in rows))

    def __call__(
        self, method: Method, iteration: int, sinks: Sinks, stopping: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Measure ``method``, in evaluation mode, on every set.

        Returns:
            Means by ``set/metric``; ``None`` if a signal interrupted, and then nothing is recorded.
        """
        values: dict[str, float] = {}
        restorer = ModelRestorer(method, self.opt.manual_seed, self.opt.val.tile, self.opt.val.noise)
        for data in self.sets:
            result = evaluate(
                restorer,
                data,
                self.metrics,
                self.run,
                on_image=lambda key, image, data=data: self._keep(data, key, iteration, image),  # type: ignore[misc]
                on_details=lambda key, seen, data=data: _show(data, key, iteration, seen, sinks),  # type: ignore[misc]
                detailed=self.opt.logger.pictures if sinks else 0,
                stopping=stopping,
            )
            if not result.complete:
                return None
            logger.info("iteration %d, %s", iteration, result)
            values |= {f"{data.name}/{name}": value for name, value in result.means.items()}
        sinks.scalars(values, iteration)
        return values

    def begin(self, iteration: int) -> bool:
        """Forget, on the main process, what an attempt that died measured after ``iteration``, where this one goes on.

        Returns:
            Whether the best weights on disk may be that attempt's.
        """
        path = self.folder / RECORD
        rows = read_rows(path)
        if iteration == 0:
            path.unlink(missing_ok=True)
            (self.folder / BEST).unlink(missing_ok=True)
            return True
        kept = [row for row in rows if int(row[0]) <= iteration]
        if len(kept) < len(rows):
            CsvSink(path, iteration).close()
            self._write_best(kept)
        return self.best.comes_after(rows, iteration)

    def record(self, values: Mapping[str, float], iteration: int) -> bool:
        """Write the values down, on the main process; returns whether they are the best so far."""
        path = self.folder / RECORD
        earlier = [row for row in read_rows(path) if int(row[0]) < iteration]
        sink = CsvSink(path, iteration - 1)
        sink.scalars(values, iteration)
        sink.close()
        self._write_best(read_rows(path))
        for tag in (tag for tag, value in values.items() if not math.isfinite(value)):
            logger.warning("iteration %d: %s is %s and counts for no best", iteration, tag, values[tag])
        return self.best.is_beaten(values, earlier)

    def _write_best(self, rows: Sequence[Row]) -> None:
        with atomic_write(self.folder / BEST) as temporary:
            text = json.dumps(self._best_of(rows), indent=2, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    def _best_of(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """Best value and its iteration by ``set/metric``, in the direction that the metric says; only of finite values."""
        best: dict[str, dict[str, float]] = {}
        for iteration, tag, value in _finite(rows):
            metric = self.metrics.get(tag.rpartition("/")[2])
            sign = 1 if metric is None or metric.higher_is_better else -1
            if tag not in best or sign * value > sign * best[tag]["value"]:
                best[tag] = {"value": value, "iteration": iteration}
        return best

    def _keep(self, data: ValidationSet, key: str, iteration: int, image: Tensor) -> None:
        if self.opt.val.save_img:
            # The set's name keeps images apart that have one name in two sets.
            save_image(self.folder / "visualization" / data.name / key, str(iteration), image)


class Best:
    """Compares a validation with those before, by ``logger.keep_best``.

    Attributes:
        tag: ``set/metric`` that decides, or ``None`` if nothing does.

    Raises:
        UpsrError: there is no such set or metric.
    """

    def __init__(self, opt: CommonOptions, metrics: Mapping[str, Metric]) -> None:
        wanted = opt.logger.keep_best
        self.tag: str | None = None
        if wanted is None:
            return
        names = {phase: options.name or phase for phase, options in opt.validation_sets.items()}
        dataset = wanted.dataset or next(iter(names), None)
        if dataset is None:
            logger.warning("logger.keep_best: there is no validation set to judge by; no best weights are kept")
            return
        if dataset not in names and dataset not in names.values():
            raise UpsrError(f"logger.keep_best.dataset: no set '{dataset}'{did_you_mean(dataset, names)}")
        if wanted.metric not in metrics:
            raise UpsrError(
                f"logger.keep_best.metric: no metric '{wanted.metric}'{did_you_mean(wanted.metric, metrics)}"
            )
        self.tag = f"{names.get(dataset, dataset)}/{wanted.metric}"
        higher = metrics[wanted.metric].higher_is_better if wanted.direction is None else wanted.direction == "max"
        self._sign = 1 if higher else -1

    def is_beaten(self, values: Mapping[str, float], earlier: Sequence[Row]) -> bool:
        """Whether ``values`` are better than all earlier rows; what is not finite is better or worse than nothing."""
        if self.tag is None or not math.isfinite(values.get(self.tag, math.nan)):
            return False
        before = [self._sign * value for _, tag, value in _finite(earlier) if tag == self.tag]
        return not before or self._sign * values[self.tag] > max(before)

    def comes_after(self, rows: Sequence[Row], iteration: int) -> bool:
        """Whether the best of the rows is of a later iteration."""
        own = [(self._sign * value, -at) for at, tag, value in _finite(rows) if tag == self.tag]
        return bool(own) and -max(own)[1] > iteration


def _finite(rows: Sequence[Row]) -> Iterator[tuple[int, str, float]]:
    """Rows as numbers; a set on which a metric was not finite has no best."""
    for iteration, tag, value in rows:
        if math.isfinite(float(value)):
            yield int(iteration), tag, float(value)


def _show(data: ValidationSet, key: str, iteration: int, seen: Sequence[Seen], sinks: Sinks) -> None:
    images = {item.name: item.image for item in seen}
    sinks.picture(f"{data.name}/{key} ({', '.join(images)})", strip(images), iteration)
    for item in seen:
        if item.kind == "map":
            sinks.histogram(f"{data.name}/{item.name}/{key}", item.image, iteration)
