"""The tables of a paper: values measured here beside the published ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from upsr.config.schema import Section
from upsr.evaluation.entries import ENTRIES
from upsr.report.cost import COSTS, CostMeter, NotMeasuredError, Setting
from upsr.report.numbers import digits_of

PUBLISHED = Path(__file__).parent / "published"


class Column(Section):
    """A metric on a dataset, or a cost."""

    dataset: str | None = None
    metric: str | None = None
    cost: str | None = None
    at: Setting = Setting()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Column:
        if (self.cost is None) != (self.dataset is not None and self.metric is not None):
            raise ValueError("a column has dataset and metric, or cost")
        if self.cost is not None and self.cost not in COSTS:
            raise ValueError(f"no cost '{self.cost}'; there are {', '.join(COSTS)}")
        return self

    @property
    def title(self) -> str:
        """Head of the column."""
        return f"{self.dataset} {self.metric}" if self.cost is None else COST_TITLES[self.cost]

    @property
    def digits(self) -> int:
        """Digits after the point, unless the table says otherwise."""
        return COST_DIGITS[self.cost] if self.cost else digits_of(str(self.metric))


COST_TITLES = {
    "parameters_m": "parameters (M)",
    "aux_parameters_m": "auxiliary (M)",
    "all_parameters_m": "all parameters (M)",
    "own_parameters_m": "own parameters (M)",
    "runtime_s": "runtime (s)",
    "memory_gib": "memory (GiB)",
    "train_s": "s / iteration",
    "train_memory_gib": "memory (GiB)",
}
COST_DIGITS = {
    "parameters_m": 2,
    "aux_parameters_m": 2,
    "all_parameters_m": 1,
    "own_parameters_m": 2,
    "runtime_s": 3,
    "memory_gib": 2,
    "train_s": 2,
    "train_memory_gib": 1,
}


class RowDescription(Section):
    """A method and its published values."""

    label: str
    method: str | None = Field(description="An entry of options/methods/; null for published values alone.")
    published: list[float | None]
    reason: str | None = Field(None, description="Why there is no method; by default that there is no such entry.")

    @model_validator(mode="after")
    def _a_method_needs_no_reason(self) -> RowDescription:
        if self.method and self.reason:
            raise ValueError(f"'{self.label}' has a method; remove the reason why there is none")
        return self


class TableDescription(Section):
    """A table of the paper."""

    title: str
    note: str | None = None
    digits: int | None = Field(None, ge=0, description="After the point, of measures; by default those usual for each.")
    columns: list[Column]
    rows: list[RowDescription]

    @model_validator(mode="after")
    def _rows_fit(self) -> TableDescription:
        for row in self.rows:
            if len(row.published) != len(self.columns):
                raise ValueError(f"'{row.label}' has {len(row.published)} values for {len(self.columns)} columns")
        return self

    def digits_of(self, column: Column) -> int:
        """Digits after the point."""
        return column.digits if column.cost or self.digits is None else self.digits


class FigureDescription(Section):
    """A figure of the paper that can be drawn from what is measured here."""

    title: str
    draw: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="module:function of the file, upsr.report.figures.Material, and the arguments.",
    )
    arguments: dict[str, Any] = Field(default_factory=dict)


class Publication(Section):
    """A file of ``published/``."""

    title: str
    protocol: str = Field(description="By which the metrics were measured.")
    remark: str | None = Field(None, description="Said below the tables.")
    tables: dict[str, TableDescription]
    figures: dict[str, FigureDescription] = Field(default_factory=dict, description="By their number in the paper.")


_NO_COST = "costs were not asked for (--no-cost)"
_ALONE = "published values alone"
_NO_ENTRY = "options/methods/ has no such entry"

Status = Literal["measured", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """Content of a cell.

    Attributes:
        value: measured here, or ``None``.
        status: ``wrong``: something was measured, but not of what the row names, so the number is not shown.
        remarks: why there is no number, or what to know about it.
    """

    value: float | None
    status: Status
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A finding beside the published value."""

    finding: Finding
    published: float | None
    digits: int

    @property
    def difference(self) -> float | None:
        """Ours minus the published."""
        if self.finding.value is None or self.published is None:
            return None
        return self.finding.value - self.published


@dataclass(frozen=True)
class Table:
    """A table of findings.

    Attributes:
        cells: by row and column.
    """

    number: str
    title: str
    note: str | None
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Cell]]

    @property
    def remarks(self) -> list[str]:
        """Every remark once, in the order of the cells."""
        return list(dict.fromkeys(remark for row in self.cells for cell in row for remark in cell.finding.remarks))

    @property
    def measured(self) -> int:
        """Number of cells with a number."""
        return sum(cell.finding.value is not None for row in self.cells for cell in row)

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.rows) * len(self.columns)

    def shared(self) -> tuple[list[set[str]], list[set[str]]]:
        """The remarks that all cells of a row have, by row, and those of all cells of a column, by column.

        What a column says its rows do not repeat.
        """
        said = [[set(cell.finding.remarks) for cell in row] for row in self.cells]
        of_columns = [set.intersection(*column) for column in zip(*said, strict=True)]
        of_rows = [set.intersection(*row) - set().union(*of_columns) for row in said]
        return of_rows, of_columns


def publications() -> list[str]:
    """Names of the papers, sorted."""
    return sorted(path.stem for path in PUBLISHED.glob("*.yml"))


def read_publication(name: str) -> Publication:
    """The tables and figures of a paper."""
    return Publication.model_validate(yaml.safe_load((PUBLISHED / f"{name}.yml").read_text(encoding="utf-8")))


@dataclass
class Evidence:
    """Sources of the cells' numbers.

    Attributes:
        protocol: of the publication.
        summary: of an evaluation; ``None`` if there was nothing to evaluate on.
        no_dataset: why a dataset cannot be used.
        unavailable: methods that cannot be measured, as in a summary.
        meter: measures costs; ``None`` to leave them out.
    """

    protocol: str
    summary: Mapping[str, Any] | None
    no_dataset: Mapping[str, str]
    unavailable: Sequence[Mapping[str, Any]]
    meter: CostMeter | None
    _wrong: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._wrong = _suspicious(self.summary["methods"]) if self.summary else {}

    def find(self, row: RowDescription, column: Column) -> Finding:
        """A cell's finding."""
        if row.method is None:
            return Finding(None, "missing", (f"{_ALONE}: {row.reason or _NO_ENTRY}",))
        return self._cost(row.method, column) if column.cost else self._quality(row.method, column)

    def _cost(self, method: str, column: Column) -> Finding:
        if self.meter is None:
            return Finding(None, "missing", (_NO_COST,))
        try:
            value = self.meter.measure(ENTRIES.read(method), str(column.cost), column.at)
        except NotMeasuredError as error:
            return Finding(None, "missing", (f"{method}: {error}",))
        actual = self.meter.actual(column.at)
        if "parameters" in str(column.cost) or actual == column.at:
            return Finding(value, "measured")
        return Finding(value, "measured", (f"measured with {actual.batch} image at once, not {column.at.batch}",))

    def _quality(self, method: str, column: Column) -> Finding:
        dataset, measure = str(column.dataset), f"{self.protocol}/{column.metric}"
        if method in self._wrong:
            return Finding(None, "wrong", (self._wrong[method],))
        absent = [self.no_dataset[dataset]] if dataset in self.no_dataset else []
        for item in self.unavailable:
            if item["method"] == method and item["dataset"] in (None, dataset):
                return Finding(None, item["status"], (*absent, f"{method}: {item['reason']}"))
        if absent:
            return Finding(None, "missing", tuple(absent))
        if self.summary is None:
            return Finding(None, "missing", (f"{method} was not evaluated on {dataset}",))
        if measure in self.summary["missing_measures"]:
            return Finding(None, "missing", (self.summary["missing_measures"][measure],))
        facts = self.summary["datasets"].get(dataset)
        for result in self.summary["results"]:
            if (result["method"], result["dataset"], result["protocol"]) != (method, dataset, self.protocol):
                continue
            if result["metric"] == column.metric and facts is not None:
                remarks = [f"{dataset}: {doubt}" for doubt in facts["doubts"]]
                if result["images"] < facts["images"]:
                    remarks.append(f"{dataset}: on {result['images']} of {facts['images']} images")
                return Finding(result["mean"], "measured", tuple(remarks))
        return Finding(None, "missing", (f"{column.metric} was not measured of {method} on {dataset}",))


def fill(number: str, description: TableDescription, evidence: Evidence) -> Table:
    """A table with all its cells."""
    cells = [
        [
            Cell(evidence.find(row, column), published, description.digits_of(column))
            for column, published in zip(description.columns, row.published, strict=True)
        ]
        for row in description.rows
    ]
    columns = [column.title for column in description.columns]
    return Table(number, description.title, description.note, columns, [row.label for row in description.rows], cells)


def what_is_waited_for(tables: Sequence[Table], shown: int = 4) -> list[str]:
    """Lines that name the data and weights which would fill most of the empty cells."""
    waiting = [
        frozenset(cell.finding.remarks)
        for table in tables
        for row in table.cells
        for cell in row
        if cell.finding.status == "missing"
        and not any(remark.startswith((_NO_COST, _ALONE)) for remark in cell.finding.remarks)
    ]
    lines = [
        f"{count:5} empty cells wait for {remark}"
        for remark, count in Counter(remark for remarks in waiting for remark in remarks).most_common(shown)
    ]
    few = {remarks for remarks in waiting if len(remarks) <= 2}
    filled = {remarks: sum(other <= remarks for other in waiting) for remarks in few}
    if filled:
        best = max(sorted(filled, key=sorted), key=lambda remarks: filled[remarks])
        names = " and ".join(sorted(remark.partition(":")[0] for remark in best))
        lines.append(f"{filled[best]:5} cells at most can be filled with nothing but {names}")
    return lines


def needed(tables: Iterable[TableDescription]) -> dict[str, set[str]]:
    """Datasets by method that the tables' cells need."""
    pairs: dict[str, set[str]] = defaultdict(set)
    for table in tables:
        for column in table.columns:
            if column.dataset is not None:
                for row in table.rows:
                    if row.method is not None:
                        pairs[row.method].add(column.dataset)
    return dict(pairs)


def _suspicious(methods: Mapping[str, Any]) -> dict[str, str]:
    """Methods whose numbers are not theirs: random weights, or the checkpoint of another method."""
    found = {name: f"{name}: its weights are random" for name, facts in methods.items() if facts.get("random_weights")}
    owners: dict[str, list[str]] = defaultdict(list)
    for name, facts in methods.items():
        if facts["make"]["type"] == "Checkpoint":
            owners[facts["weights"][0]["sha256"]].append(name)
    for names in owners.values():
        if len(names) > 1:
            found |= {
                name: f"{' and '.join(names)} have the same weights; at most one of them can be right" for name in names
            }
    return found
