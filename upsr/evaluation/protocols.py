"""Evaluation protocols: what is measured, on which colours and pixels, by which version of which library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from upsr.compat import METRIC_REGISTRY
from upsr.config.components import build, component_problems
from upsr.config.load import refuse
from upsr.config.schema import FolderName, MetricComponent, Section
from upsr.evaluation.catalogue import Catalogue
from upsr.metrics import Metric, MetricUnavailableError, SetMetric
from upsr.provenance import file_digest

SEPARATOR = "/"
"""Between protocol and metric in the name of a measure: ``upsr/psnr``."""

CHANGED_IN: Mapping[str, Sequence[str]] = {"maniqa": ("0.1.10", "0.1.12")}
"""Versions of pyiqa in which a metric's numbers changed: MANIQA's scale, then its crops."""


def _plain(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise ValueError(f"a metric's name has small letters, digits, - and _; not '{name}'")
    return name


MetricName = Annotated[str, AfterValidator(_plain)]


class Protocol(Section):
    """A file ``options/protocols/NAME.yml``."""

    name: FolderName = Field(description="By default the name of the file.")
    about: str = Field(description="Whose numbers it reproduces, and from where that is known.")
    rounding: Literal["float", "uint8"] = Field(
        description="float: the restored image as computed, clamped; uint8: as an 8-bit PNG holds it."
    )
    metrics: dict[MetricName, MetricComponent] = Field(description="Name in the tables: registered metric.")
    set_metrics: dict[MetricName, MetricComponent] = Field(
        default_factory=dict, description="As metrics, of a whole set."
    )


PROTOCOLS = Catalogue("protocol", "options/protocols", Protocol)


class AsStored:
    """A metric of the image as an 8-bit file holds it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.needs_reference = metric.needs_reference
        self.higher_is_better = metric.higher_is_better
        self.version = metric.version

    def to(self, device: torch.device) -> AsStored:
        """The metric on a device."""
        self._metric = self._metric.to(device)
        return self

    def __call__(self, sr: Tensor, gt: Tensor | None) -> float:
        """See :class:`upsr.metrics.Metric`."""
        return self._metric((sr.clamp(0, 1) * 255).round() / 255, gt)


@dataclass
class Instruments:
    """Everything that protocols measure, by ``protocol/metric``.

    Attributes:
        missing: why a measure cannot be had.
        records: what it is: version, colour, border, rounding. Numbers with different records are not comparable.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    set_metrics: dict[str, SetMetric] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)


def build_instruments(
    protocols: Sequence[Protocol], device: torch.device, only: Sequence[str] | None = None
) -> Instruments:
    """The measures of some protocols; a missing one is noted, and the others are kept.

    Args:
        only: names of metrics to measure; by default all. A name that no protocol has is pyiqa's for one, and is measured with
            the first protocol's rounding.

    Raises:
        UpsrError: there is no such metric.
    """
    instruments = Instruments()
    for i, protocol in enumerate(protocols):
        metrics = dict(protocol.metrics)
        if i == 0 and only is not None:
            known = {name for p in protocols for name in (*p.metrics, *p.set_metrics)}
            metrics |= {name: MetricComponent(type="PyIQA", metric=name) for name in only if name not in known}
        for kind, components in (("metrics", metrics), ("set_metrics", protocol.set_metrics)):
            for name, component in components.items():
                if only is None or name in only:
                    _add(instruments, protocol, kind, name, component, device)
    return instruments


def _add(
    instruments: Instruments, protocol: Protocol, kind: str, name: str, component: MetricComponent, device: torch.device
) -> None:
    where = f"options/protocols/{protocol.name}.yml"
    refuse(where, list(component_problems(METRIC_REGISTRY, component, f"{kind}.{name}")))
    measure = f"{protocol.name}{SEPARATOR}{name}"
    try:
        metric = build(METRIC_REGISTRY, component)
    except MetricUnavailableError as error:
        instruments.missing[measure] = str(error)
        return
    instruments.records[measure] = {
        "version": metric.version,
        "rounding": protocol.rounding if kind == "metrics" else "uint8",
        "higher_is_better": metric.higher_is_better,
        **component.model_dump(),
    }
    if weights := component.arguments.get("weights_path"):
        instruments.records[measure]["weights_sha256"] = file_digest(weights)
    if kind == "set_metrics":
        instruments.set_metrics[measure] = metric
    else:
        metric = metric.to(device)
        instruments.metrics[measure] = AsStored(metric) if protocol.rounding == "uint8" else metric


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Differences between the records of two measures, for which their numbers are not comparable.

    Two versions of pyiqa count as one where the metric did not change between them. Of weight files the contents are
    compared, where both records name a file.
    """
    found = []
    of_one_alone = one.keys() ^ other.keys()
    for key in sorted(
        {*one, *other} - {"version", "weights_path", "backbone_path"} - ({"weights_sha256"} & of_one_alone)
    ):
        if one.get(key) != other.get(key):
            found.append(f"{key} {one.get(key)} and {other.get(key)}")
    versions = [str(record.get("version")) for record in (one, other)]
    if versions[0] != versions[1] and _generation(versions[0]) != _generation(versions[1]):
        found.append(f"measured by {versions[0]} and {versions[1]}")
    return found


def _generation(version: str) -> tuple[str, ...]:
    """The part of a version that numbers depend on."""
    match = re.fullmatch(r"pyiqa (\d+(?:\.\d+)*)\S* (\S+)", version)
    if not match or match[2] not in CHANGED_IN:
        return (version.split(" ")[0], version.rpartition(" ")[2])
    changes = sum(_numbers(change) <= _numbers(match[1]) for change in CHANGED_IN[match[2]])
    return ("pyiqa", match[2], str(changes))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
