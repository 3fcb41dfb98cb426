"""The networks of a method as files for other runtimes: ONNX, ``torch.export``, AOTInductor.

The plain arithmetic around the networks, as upsampling, noise and the steps of a sampler, is not exported; ``export.json``
beside the files holds its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from upsr.atomic import atomic_folder
from upsr.choices import ExportFormat
from upsr.errors import UpsrError
from upsr.export.check import TOLERANCE, Difference, differences
from upsr.export.formats import FORMATS, OPSET
from upsr.export.trace import Sizes, Traced, failing_in_one_line, trace
from upsr.methods.base import Method
from upsr.methods.graphs import Exported, Graph
from upsr.provenance import file_digest, versions, weights_digest

RECORD = "export.json"


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written.

    Attributes:
        smallest_side: the least LR height and width that it takes.
        differences: empty if they were not measured.
    """

    name: str
    format: ExportFormat
    sha256: str
    smallest_side: int
    differences: list[Difference] = field(default_factory=list)

    @property
    def worst(self) -> float | None:
        """The largest difference from torch, ``None`` if it was not measured."""
        return max((d.max_abs_difference for d in self.differences), default=None)


def export_model(
    method: Method,
    folder: str | Path,
    *,
    formats: Sequence[ExportFormat] = ("onnx",),
    size: tuple[int, int] | None = None,
    check: bool = True,
    source: str = "",
) -> list[ExportedFile]:
    """Write the graphs that a method exports, and ``export.json``.

    Args:
        method: on the CPU, in evaluation mode.
        folder: is made; may be there if it is empty.
        formats: one file of each graph for each.
        size: LR height and width, multiples of ``method.facts.multiple``, that the graphs are for; by default they take all
            such sizes. The batch is free either way.
        check: run every file and compare it with torch.
        source: origin of the weights, for messages and the record.

    Returns:
        The files, in the order they were written.

    Raises:
        UpsrError: the method has no export, a package or compiler is missing, the folder has something in it, a network cannot
            be exported, or a file's results are further than :data:`TOLERANCE` from torch's. Nothing is left then.
    """
    exported = exported_of(method, source)
    require(formats, check)
    sizes = Sizes(method.facts.multiple, size)
    networks: dict[str, tuple[Graph, list[ExportedFile]]] = {}
    with atomic_folder(folder) as unfinished:
        for graph in exported.graphs:
            traced = trace(graph, sizes)
            networks[graph.name] = graph, [write(traced, form, unfinished, sizes, check) for form in formats]
        record = {
            "source": source,
            "versions": versions("onnx", "onnxscript", "onnxruntime"),
            "opset": OPSET if "onnx" in formats else None,
            "tolerance": TOLERANCE,
            "size": size,
            "restoring": exported.restoring,
            "networks": {name: network_record(*network) for name, network in networks.items()},
        }
        (unfinished / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return [file for _, files in networks.values() for file in files]


def exported_of(method: Method, source: str) -> Exported:
    """Graphs and numbers of a method.

    Raises:
        UpsrError: it has no export.
    """
    if (exported := method.exported()) is None:
        name = type(method).__name__
        raise UpsrError(
            f"{source or name}: the method {name} has no export; docs/export.md names the methods that have one"
        )
    return exported


def require(formats: Sequence[ExportFormat], check: bool) -> None:
    """Find the tools of the formats before any work is done.

    Raises:
        UpsrError: a package or the C++ compiler is missing.
    """
    for form in formats:
        FORMATS[form].require(check)


def write(
    traced: Traced,
    form: ExportFormat,
    folder: Path,
    sizes: Sizes,
    check: bool,
    finish: Callable[[Path], None] = lambda path: None,
    tolerance: float = TOLERANCE,
) -> ExportedFile:
    """One file of a graph, compared with torch if ``check``.

    Args:
        finish: changes the file before it is compared.

    Raises:
        UpsrError: it cannot be written, or differs by more than ``tolerance``.
    """
    graph, made = traced.graph, FORMATS[form]
    path = folder / (graph.name + made.suffix)
    with failing_in_one_line(f"{graph.name}: {graph.architecture} cannot be written as {form}"):
        made.write(graph, traced.program, path)
        finish(path)
    # A file that is not guarded holds none of the tracer's assumptions; that it is right below them is measured.
    least = traced.least if made.guarded else 1
    found = differences(traced, made.load(path), sizes, least) if check else []
    file = ExportedFile(path.name, form, file_digest(path), min(sizes.only or [least * sizes.multiple]), found)
    if file.worst is not None and not file.worst <= tolerance:
        raise UpsrError(f"{file.name}: differs from torch by up to {file.worst:.2g}, more than {tolerance:.2g}")
    return file


def network_record(graph: Graph, files: Sequence[ExportedFile]) -> dict[str, Any]:
    """A network in ``export.json``."""
    return {
        "architecture": graph.architecture,
        "parameters": sum(p.numel() for p in graph.network.parameters()),
        "weights_sha256": weights_digest(graph.network),
        "inputs": graph.inputs,
        "output": graph.output,
        "files": [asdict(file) for file in files],
    }
