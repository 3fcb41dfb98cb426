"""Results of earlier evaluations in a folder whose source files have not changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from upsr.config.schema import TileOptions
from upsr.engine.distributed import Runtime
from upsr.errors import UpsrError
from upsr.evaluation.entries import MissingWeightsError, describe, make_ready, origin
from upsr.evaluation.protocols import differences
from upsr.evaluation.results import Journal, Measured, Row, rows_of
from upsr.evaluation.work import (
    WHOLE_SET,
    OpenSet,
    Work,
    content_of_set,
    finished,
    identity,
    made_of,
    open_set,
    pictures_of,
)
from upsr.provenance import digest_of

_CPU = torch.device("cpu")

Reads = Callable[[str, Sequence[str]], Mapping[str, str]]


@dataclass
class Earlier:
    """Rows of earlier evaluations.

    Attributes:
        set_rows: of measures of whole sets.
        datasets, methods, works, protocols, measures: as in a summary, of the rows.
        changed: images of which no values are those of the files that are there now, by method and dataset.
        not_shown: what there are no rows of, and why, by method and dataset.
        outdated: those of them whose files are here, but others than were measured.
    """

    rows: list[Row] = field(default_factory=list)
    set_rows: list[Row] = field(default_factory=list)
    datasets: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Any] = field(default_factory=dict)
    works: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, Any] = field(default_factory=dict)
    not_shown: dict[tuple[str, str], str] = field(default_factory=dict)
    outdated: set[tuple[str, str]] = field(default_factory=set)
    changed: dict[tuple[str, str], set[str]] = field(default_factory=dict)


class _ChangedError(UpsrError):
    """The reason why the values of a work are no longer those of its files."""


@dataclass
class Finder:
    """Looks through a journal.

    Attributes:
        pictures: folder of the restored images of a method, seed and dataset.
        sets: datasets of the running evaluation, by name; others are opened.
        methods: origin and readings of its methods, by name; others are made ready.
        measures: records of its measures: others of the same name are not set beside them.
    """

    journal: Journal
    pictures: Callable[[str, int, str], Path]
    sets: dict[str, OpenSet]
    methods: dict[str, tuple[dict[str, Any], Reads]]
    measures: Mapping[str, Any]
    _opened: dict[tuple[str, str], OpenSet | str] = field(default_factory=dict)
    _made: dict[str, tuple[dict[str, Any], Reads] | str] = field(default_factory=dict)

    def find(
        self, rows: Sequence[Row], passed_over: Collection[str], said: Collection[tuple[str, str | None]]
    ) -> Earlier:
        """Results in the journal beside the rows of the running evaluation, those of whole sets included.

        Args:
            passed_over: works and methods that are dealt with already.
            said: methods and datasets of which it is known already why there are no numbers.
        """
        found = Earlier(measures=dict(self.measures))
        known = self.journal.read()
        taken = {_place(row) for row in rows}
        evaluated = {(row.method, row.dataset) for row in rows} | set(said)
        for name, record in self.journal.works().items():
            try:
                work = Work(**record)
            except TypeError:  # of another version
                continue
            if name in passed_over or work.method in passed_over or name not in known:
                continue
            pair = (work.method, work.dataset)
            try:
                added, of_sets = self._rows(work, known, found)
            except UpsrError as error:
                if pair not in evaluated:
                    found.not_shown.setdefault(pair, str(error))
                    found.outdated |= {pair} if isinstance(error, _ChangedError) else set()
                continue
            found.rows += [row for row in added if _place(row) not in taken]
            found.set_rows += [row for row in of_sets if _place(row) not in taken]
            taken |= {_place(row) for row in (*added, *of_sets)}
        used = {row.work for row in (*found.rows, *found.set_rows)}
        found.works = {name: about for name, about in found.works.items() if name in used}
        shown = {(row.method, row.dataset) for row in found.rows}
        found.not_shown = {pair: why for pair, why in found.not_shown.items() if pair not in shown}
        for pair, keys in found.changed.items():
            if pair not in evaluated and (
                lost := keys - {row.image for row in found.rows if (row.method, row.dataset) == pair}
            ):
                found.not_shown.setdefault(pair, f"the files of {len(lost)} image(s) have changed since")
                found.outdated.add(pair)
        for name, facts in found.datasets.items():
            facts["evaluated"] = len({row.image for row in found.rows if row.dataset == name})
        return found

    def _rows(
        self, work: Work, known: Mapping[str, Mapping[str, list[Measured]]], found: Earlier
    ) -> tuple[list[Row], list[Row]]:
        """Rows of the images and of the whole set of a work, noting in ``found`` what they need in a summary."""
        data = self._set(work)
        made_by, reads = self._method(work)
        measures = {
            name: record
            for name, record in work.identity["measures"].items()
            if name not in found.measures or not differences(found.measures[name], record)
        }
        now = identity(made_by, data, work.identity["measures"], work.identity["seed"])
        if digest_of(now) != digest_of(work.identity):
            raise _ChangedError("the method, its weights or the description of the dataset have changed since")
        if not measures:
            raise _ChangedError("it was measured differently")
        pictures = self.pictures(work.method, work.seed, work.dataset)
        made = made_of(data, reads)
        images = finished(known.get(work.id, {}), made, pictures, with_pictures=False)
        changed = known.get(work.id, {}).keys() & set(data.keys) - images.keys()
        found.changed.setdefault((work.method, work.dataset), set()).update(changed)
        if not images:
            raise _ChangedError("its files have changed since")
        whole = content_of_set(data, made, pictures, images)
        entries = known.get(work.id, {}).get(WHOLE_SET, [])
        of_set = next((entry.values for entry in entries if entry.content == whole), {})
        found.measures |= {name: record for name, record in measures.items() if name not in found.measures}
        found.protocols = {**work.protocols, **found.protocols}
        found.methods[work.method] = made_by
        found.works[work.id] = {"method": work.method, "dataset": work.dataset, "seed": work.seed}
        if work.dataset not in self.sets:
            found.datasets.setdefault(work.dataset, data.facts())
        place = (work.id, work.dataset, work.method, work.seed)
        return (
            list(rows_of(*place, _only(measures, images), data.contents)),
            list(rows_of(*place, _only(measures, {WHOLE_SET: of_set}))),
        )

    def _set(self, work: Work) -> OpenSet:
        """The dataset of a work as it is now."""
        if work.dataset in self.sets:
            return self.sets[work.dataset]
        place = (work.described, work.root)
        if place not in self._opened:
            self._opened[place] = _or_reason(lambda: open_set(work.described, Path(work.root), Runtime(_CPU)))
        return _unless_reason(self._opened[place])

    def _method(self, work: Work) -> tuple[dict[str, Any], Reads]:
        """The method of a work as it is now. A name stands for one method in one folder."""
        if work.method in self.methods:
            return self.methods[work.method]
        place = json.dumps([work.given, work.tile])
        if place not in self._made:
            self._made[place] = _or_reason(lambda: _made_now(work))
        return _unless_reason(self._made[place])


def changed_since(folder: Path, rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Rows of an evaluation's folder whose files are here, but are not those that were measured: why, by method and dataset."""
    journal = Journal(folder / "journal", 0)
    others = journal.works().keys() - {row.work for row in rows}
    found = Finder(journal, lambda *place: pictures_of(folder, *place), {}, {}, {}).find([], others, ())
    return {pair: found.not_shown[pair] for pair in found.outdated & found.not_shown.keys()}


def _made_now(work: Work) -> tuple[dict[str, Any], Reads]:
    description = describe(work.given)
    method = make_ready(description, _CPU, TileOptions(**work.tile) if work.tile else None)
    return origin(description, method), method.reads


def _or_reason(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UpsrError as error:
        return str(error)


def _unless_reason(item: Any) -> Any:
    if isinstance(item, str):
        raise MissingWeightsError(item)
    return item


def _only(measures: Collection[str], images: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {key: {name: value for name, value in values.items() if name in measures} for key, values in images.items()}


def _place(row: Row) -> tuple[Any, ...]:
    return dataclasses.astuple(row)[:6]
