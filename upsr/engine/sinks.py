"""Where the numbers and pictures of a run go: TensorBoard, a CSV file, Weights & Biases. One interface, any of them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from upsr.atomic import atomic_write
from upsr.config.schema import LoggerOptions, WandbOptions
from upsr.errors import UpsrError

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """A place for what a run reports."""

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Values by tag."""
        ...

    def picture(self, tag: str, image: Tensor, iteration: int) -> None:
        """A (C, H, W) image in [0, 1]."""
        ...

    def histogram(self, tag: str, values: Tensor, iteration: int) -> None:
        """The distribution of a tensor's values."""
        ...

    def close(self) -> None:
        """Write out what is pending."""
        ...


class TensorBoardSink:
    """TensorBoard event files; what an interrupted run reported after ``iteration`` is hidden."""

    def __init__(self, folder: Path, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: its import takes seconds

        self._writer = SummaryWriter(str(folder), purge_step=iteration + 1)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """See :class:`Sink`."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, iteration)

    def picture(self, tag: str, image: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""
        self._writer.add_image(tag, image, iteration)

    def histogram(self, tag: str, values: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""
        self._writer.add_histogram(tag, values, iteration)

    def close(self) -> None:
        """See :class:`Sink`."""
        self._writer.close()


class CsvSink:
    """Rows ``iteration,tag,value`` in one file; pictures and histograms are not for it.

    Rows that an interrupted run wrote after ``iteration`` are removed: the resumed run writes them again.
    """

    COLUMNS = ("iteration", "tag", "value")

    def __init__(self, path: Path, iteration: int) -> None:
        kept = [row for row in read_rows(path) if int(row[0]) <= iteration]
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.COLUMNS, *kept])
        self._file = path.open("a", newline="", encoding="utf-8")

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """See :class:`Sink`."""
        csv.writer(self._file).writerows((iteration, tag, repr(float(value))) for tag, value in values.items())
        self._file.flush()

    def picture(self, tag: str, image: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""

    def histogram(self, tag: str, values: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""

    def close(self) -> None:
        """See :class:`Sink`."""
        self._file.close()


Row = tuple[str, str, str]
"""Iteration, tag and value in a :class:`CsvSink` file."""


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a :class:`CsvSink` file; what a kill or a power cut has spoilt is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if line.endswith("\n")]
    rows = [row for row in csv.reader(lines) if len(row) == len(CsvSink.COLUMNS)]
    return [(row[0], row[1], row[2]) for row in rows if row[0].isascii() and row[0].isdigit() and _is_number(row[2])]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class WandbSink:
    """Weights & Biases; without a network set WANDB_MODE=offline.

    Raises:
        UpsrError: the package is not installed.
    """

    def __init__(self, options: WandbOptions, name: str, config: Mapping[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise UpsrError(
                "logger.wandb: the package is not installed: pip install wandb, or remove the key"
            ) from None
        self._wandb = wandb
        self._run = wandb.init(
            project=options.project, entity=options.entity, name=name, id=options.run_id, resume="allow",
            config=dict(config), dir=str(folder),
        )  # fmt: skip

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """See :class:`Sink`."""
        self._run.log(dict(values), step=iteration)

    def picture(self, tag: str, image: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""
        self._run.log({tag: self._wandb.Image(image.permute(1, 2, 0).float().cpu().numpy())}, step=iteration)

    def histogram(self, tag: str, values: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""
        self._run.log({tag: self._wandb.Histogram(values.float().cpu().numpy())}, step=iteration)

    def close(self) -> None:
        """See :class:`Sink`."""
        self._run.finish()


class Sinks:
    """Several sinks as one. One that can no longer write (disk full, network gone) is given up with a warning."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def __bool__(self) -> bool:
        """Whether anything listens."""
        return bool(self._sinks)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """See :class:`Sink`."""
        self._each(lambda sink: sink.scalars(values, iteration))

    def picture(self, tag: str, image: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""
        self._each(lambda sink: sink.picture(tag, image, iteration))

    def histogram(self, tag: str, values: Tensor, iteration: int) -> None:
        """See :class:`Sink`."""
        self._each(lambda sink: sink.histogram(tag, values, iteration))

    def close(self) -> None:
        """See :class:`Sink`."""
        self._each(lambda sink: sink.close())

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except OSError as error:
                self._sinks.remove(sink)
                logger.warning("%s cannot write any more and is given up: %s", type(sink).__name__, error)


def open_sinks(
    options: LoggerOptions, folder: Path, *, name: str, config: Mapping[str, Any], iteration: int, is_main: bool
) -> Sinks:
    """The sinks that the options ask for; none on processes other than the main one.

    Args:
        iteration: finished iterations, after which earlier reports are dropped.
    """
    if not is_main:
        return Sinks([])
    sinks: list[Sink] = []
    if options.use_tb_logger:
        sinks.append(TensorBoardSink(folder / "tb_logger", iteration))
    if options.use_csv:
        sinks.append(CsvSink(folder / "metrics.csv", iteration))
    if options.wandb is not None:
        sinks.append(WandbSink(options.wandb, name, config, folder))
    return Sinks(sinks)
