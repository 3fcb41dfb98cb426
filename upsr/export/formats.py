"""Formats of exported graphs: each needs, writes and runs something of its own."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from upsr.choices import ExportFormat
from upsr.errors import UpsrError
from upsr.methods.graphs import Graph

OPSET = 20

Run = Callable[[Mapping[str, Tensor]], Tensor]
"""Computes a graph's output from its inputs by name."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of its files.
        require: raises UpsrError if a tool is missing that writes files or, with ``True``, runs them.
        write: makes a file.
        load: opens a file to run it on the CPU.
        guarded: files refuse sizes below those that tracing assumed.
    """

    suffix: str
    require: Callable[[bool], None]
    write: Callable[[Graph, ExportedProgram, Path], None]
    load: Callable[[Path], Run]
    guarded: bool = True


def require_onnx(check: bool, option: str = "--format onnx") -> None:
    """Find the packages that ONNX files need, or to run them, too.

    Args:
        option: that asks for such files, for the message.

    Raises:
        UpsrError: one is missing.
    """
    for name in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
        package(name, option)


def package(name: str, option: str = "--format onnx") -> Any:
    """An optional package. (Imported by name: not every environment that is type-checked has it.)"""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UpsrError(f"{option} needs the package {name}: pip install 'upsr[export]'") from None


def _write_onnx(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """One file, weights inside, with named inputs, output and free sides."""
    converted = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(graph.inputs),
        output_names=[graph.output],
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort()},
        optimize=False,  # its time grows with the square of the graph; runtimes do most of it when they load a file
        verbose=False,
    )
    assert converted is not None  # with dynamo=True
    optimizer = package("onnxscript.optimizer")
    optimizer.fold_constants(converted.model)
    optimizer.remove_unused_nodes(converted.model)
    for given, shape in zip(converted.model.graph.inputs, graph.inputs.values(), strict=True):
        assert given.shape is not None
        for axis, side in enumerate(shape):
            if not isinstance(given.shape[axis], int):
                given.shape[axis] = str(side)
    converted.save(path, external_data=False)


def _stable_sort() -> Callable[..., Any]:
    """``aten.sort.stable``, which torch does not convert: ONNX defines that TopK puts equal values in their order."""
    op = package("onnxscript").opset20

    def sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    return sort


def _load_onnx(path: Path) -> Run:
    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])


def _write_torch(graph: Graph, program: ExportedProgram, path: Path) -> None:
    program.example_inputs = None  # they would be stored, and are as large as the weights
    torch.export.save(program, path)


def _load_torch(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs.values())


def _require_compiler(check: bool) -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UpsrError(f"--format aoti needs a C++ compiler, and there is no {compiler}; install one or set CXX")


def _write_aoti(graph: Graph, program: ExportedProgram, path: Path) -> None:
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def _load_aoti(path: Path) -> Run:
    loaded = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: loaded(*inputs.values())


FORMATS: dict[ExportFormat, Format] = {
    "onnx": Format(".onnx", require_onnx, _write_onnx, _load_onnx, guarded=False),
    "torch": Format(".pt2", lambda check: None, _write_torch, _load_torch),
    "aoti": Format(".aoti.pt2", _require_compiler, _write_aoti, _load_aoti),
}
