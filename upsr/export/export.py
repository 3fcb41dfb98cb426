"""The two networks of a model as files for other runtimes: ONNX, ``torch.export``, AOTInductor.

What surrounds the networks, bicubic upsampling, noise and the steps of the sampler, is plain arithmetic; ``export.json`` beside
the files holds its numbers, and docs/export.md shows it in NumPy.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upsr.atomic import writable_folder
from upsr.choices import ExportFormat
from upsr.errors import UpsrError
from upsr.methods.upsr.method import UPSR
from upsr.provenance import file_digest, versions, weights_digest

OPSET = 20
TOLERANCE = 1e-3
"""Largest difference from torch that passes: a quarter of an 8-bit grey level of g's output, an eighth of the denoiser's."""

RECORD = "export.json"

_TRACED = (2, 3, 5)
"""Batch, height and width, the sides in multiples, that graphs of free size are traced at: all different, none 1."""

_SORTING_DRAWS = 8
"""ATD orders pixels by a maximum. Where two values are a rounding apart every runtime decides by its own, and the order from
there on, so the image, is another one: torch's own too, if the input changes in its last digit. A graph that is right agrees
on inputs without such a place; a wrong one never does. So each sample of a batch has this many draws to agree."""

_SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2", "aoti": ".aoti.pt2"}


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference from torch at one size of the LR image.

    Attributes:
        draws: random inputs that it took to get there; more than one only of networks that sort, see ``_SORTING_DRAWS``.
    """

    batch: int
    height: int
    width: int
    max_abs_difference: float
    draws: int = 1


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


class _WholeMultiples(nn.Module):
    """A network whose images are cut to whole multiples, which they have already.

    For the tracer sides are then ``multiple * n`` instead of any number, and all of the networks' questions (do windows
    tile the image, can it be halved) have an answer that holds for every ``n``.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def cut(self, image: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        height, width = (side // self.multiple * self.multiple for side in image.shape[2:])
        return image[:, :, :height, :width]


class _G(_WholeMultiples):
    def forward(self, lq: Tensor) -> Tensor:
        return self.network(self.cut(lq))


class _Denoiser(_WholeMultiples):
    def forward(self, x: Tensor, t: Tensor, features: Tensor) -> Tensor:
        return self.network(self.cut(x), t, self.cut(features))


Inputs = Callable[[int, int, int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class _Part:
    """A network to export.

    Attributes:
        network: the network itself, for reference values.
        graph: what is traced.
        output: name of its result.
        shapes: symbolic shape of each input, by name.
        inputs: random inputs for a batch, height and width.
    """

    name: str
    network: nn.Module
    graph: nn.Module
    output: str
    shapes: dict[str, list[str | int]]
    inputs: Inputs


@dataclass(frozen=True)
class _Traced:
    """An exported program and the least number of multiples in a side that it is valid for."""

    program: torch.export.ExportedProgram
    least: int

    @property
    def sorts(self) -> bool:
        return any(node.target is torch.ops.aten.sort.stable for node in self.program.graph.nodes)


def export_model(
    model: UPSR,
    folder: str | Path,
    *,
    formats: Sequence[ExportFormat] = ("onnx",),
    size: tuple[int, int] | None = None,
    check: bool = True,
    source: str = "",
) -> list[ExportedFile]:
    """Write g and the denoiser of a model, and ``export.json``.

    Args:
        model: on the CPU, in evaluation mode.
        folder: is made; may be there if it is empty.
        formats: what to write.
        size: LR height and width, multiples of ``model.facts.multiple``, that the graphs are for; by default they take all
            such sizes. The batch is free either way.
        check: run every file and compare it with torch.
        source: where the weights came from, for the record.

    Returns:
        What was written, in order.

    Raises:
        UpsrError: a package or compiler is missing, the folder has something in it, a network cannot be exported, or a file's
            results are further than :data:`TOLERANCE` from torch's. Nothing is left then.
    """
    require(formats, check)
    _check_size(size, model.facts.multiple)
    written: list[ExportedFile] = []
    networks: dict[str, Any] = {}
    with _whole_folder(Path(folder)) as unfinished:
        for part in _parts(model):
            traced = _trace(part, model.facts.multiple, size)
            files = [_write(part, traced, form, unfinished, model.facts.multiple, size, check) for form in formats]
            networks[part.name] = _network_record(part, files)
            written += files
        record = {
            "source": source,
            "versions": {**versions(), **_onnx_versions()},
            "opset": OPSET if "onnx" in formats else None,
            "tolerance": TOLERANCE,
            "size": size,
            "restoring": restoring(model),
            "networks": networks,
        }
        (unfinished / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return written


def restoring(model: UPSR) -> dict[str, Any]:
    """The numbers that a restoration needs beside the two networks; see docs/export.md for what is done with them."""
    process = model.schedule
    t = torch.arange(process.num_timesteps)
    return {
        "scale": model.facts.scale,
        "channels": model.facts.channels,
        "size_multiple": model.facts.multiple,
        "etas": process.eta(t).tolist(),
        "kappa": process.kappa,
        "noise_power": process.noise_power,
        "data_variance": process.data_variance,
        "timesteps": list(model.sampling.timesteps),
        "sampler": model.sampling.sampler,
        "psi_max": model.sampling.uncertainty.psi_max,
        "b_u": model.sampling.uncertainty.b_u if model.sampling.uncertainty.enabled else 1.0,
        "sr_condition": model.sr_condition,
        "estimate": "residual" if model.residual else "image",
    }


def require(formats: Sequence[ExportFormat], check: bool) -> None:
    """Find what the formats need before any work is done.

    Raises:
        UpsrError: a package or the C++ compiler is missing.
    """
    if "onnx" in formats:
        for name in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])):
            _package(name)
    compiler = os.environ.get("CXX", "g++")
    if "aoti" in formats and shutil.which(compiler) is None:
        raise UpsrError(f"--format aoti needs a C++ compiler, and there is no {compiler}; install one or set CXX")


def _package(name: str) -> Any:
    """An optional package. (Imported by name: not every environment that is type-checked has it.)"""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UpsrError(f"--format onnx needs the package {name}: pip install 'upsr[export]'") from None


def _onnx_versions() -> dict[str, str]:
    found = {}
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _check_size(size: tuple[int, int] | None, multiple: int) -> None:
    if size is not None and any(side < 1 or side % multiple for side in size):
        raise UpsrError(f"--size {size[0]} {size[1]}: sides of this model are multiples of {multiple}")


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder`` that takes its name when the block ends well, and is removed otherwise."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UpsrError(f"{folder}: exists and is no empty folder; give another one")
    folder = folder.absolute()
    writable_folder(folder.parent)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        unfinished.mkdir()
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise UpsrError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _parts(model: UPSR) -> list[_Part]:
    multiple, g, denoiser = model.facts.multiple, model.g.network, model.denoiser
    state, condition = model.facts.channels * model.facts.scale**2, denoiser.cond_channels
    random = torch.Generator().manual_seed(0)

    def images(batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        return (torch.rand(batch, model.facts.channels, height, width, generator=random),)

    def states(batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        x = torch.randn(batch, state, height, width, generator=random)
        features = 2 * torch.rand(batch, condition, height, width, generator=random) - 1
        return (
            x,
            torch.tensor([model.sampling.timesteps[i % len(model.sampling.timesteps)] for i in range(batch)]),
            features,
        )

    def shape(channels: int) -> list[str | int]:
        return ["batch", channels, "height", "width"]

    return [
        _Part("g", g, _G(g, multiple).eval(), "sr", {"lq": shape(model.facts.channels)}, images),
        _Part(
            "denoiser",
            denoiser,
            _Denoiser(denoiser, multiple).eval(),
            "estimate",
            {"x": shape(state), "t": ["batch"], "features": shape(condition)},
            states,
        ),
    ]


def _trace(part: _Part, multiple: int, size: tuple[int, int] | None) -> _Traced:
    """``torch.export`` of a network.

    Raises:
        UpsrError: the network decides by the size of its input in a way that the tracer cannot follow.
    """
    batch = _TRACED[0]
    height, width = size or (multiple * n for n in _TRACED[1:])
    dims: dict[str | int, Any] = {"batch": torch.export.Dim("batch", min=1)}
    if size is None:
        dims |= {side: multiple * torch.export.Dim(f"{side}_multiples", min=1) for side in ("height", "width")}
    free = tuple(
        {axis: dims[name] for axis, name in enumerate(shape) if name in dims} for shape in part.shapes.values()
    )
    architecture = type(part.network).__name__
    try:
        # With gradients on, the cached attention biases are computed in the graph, from the weights.
        with _quiet(), torch.enable_grad():
            program = torch.export.export(part.graph, part.inputs(batch, height, width), dynamic_shapes=free)
    except Exception as error:  # what a tracer cannot follow, it reports in many ways
        remedy = "; --size H W exports it for one size" if size is None else ""
        what = "for all sizes" if size is None else f"at {size[0]} x {size[1]}"
        raise UpsrError(
            f"{part.name}: {architecture} cannot be exported {what} ({_first_line(error)}){remedy}"
        ) from None
    if size is not None:
        return _Traced(program, 1)
    least, bounded = _least_multiples(program, multiple)
    if bounded:
        raise UpsrError(
            f"{part.name}: {architecture} cannot be exported for all sizes; --size H W exports it for one size"
        )
    return _Traced(program, least)


def _least_multiples(program: torch.export.ExportedProgram, multiple: int) -> tuple[int, bool]:
    """How many multiples a side has at least, by what was assumed in tracing, and whether anything has an upper bound."""
    least, bounded = 1, False
    for (
        term,
        allowed,
    ) in program.range_constraints.items():  # terms: s1 (a number of multiples, or the batch), 32*s1 (a side)
        least = max(least, int(allowed.lower) if term.is_Symbol else -(-int(allowed.lower) // multiple))
        bounded |= str(allowed.upper).isdigit()  # not "int_oo"
    return least, bounded


def _write(
    part: _Part,
    traced: _Traced,
    form: ExportFormat,
    folder: Path,
    multiple: int,
    size: tuple[int, int] | None,
    check: bool,
) -> ExportedFile:
    path = folder / (part.name + _SUFFIXES[form])
    try:
        with _quiet():
            _WRITERS[form](part, traced.program, path)
    except Exception as error:  # converters and compilers fail in many ways
        raise UpsrError(
            f"{part.name}: {type(part.network).__name__} cannot be written as {form} ({_first_line(error)})"
        ) from error
    # An ONNX graph holds none of the tracer's assumptions; that it is right below them is measured.
    least = 1 if form == "onnx" else traced.least
    draws = _SORTING_DRAWS if traced.sorts else 1
    differences = _differences(part, _RUNNERS[form](path), _check_sizes(multiple, least, size), draws) if check else []
    found = ExportedFile(path.name, form, file_digest(path), min(size) if size else least * multiple, differences)
    if found.worst is not None and not found.worst <= TOLERANCE:
        raise UpsrError(f"{path.name}: differs from torch by up to {found.worst:.2g}, more than {TOLERANCE:g}")
    return found


def _check_sizes(multiple: int, least: int, size: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """Batches and sizes to compare at: the smallest that is possible, and others that were not traced."""
    if size is not None:
        return [(1, *size), (3, *size)]
    return [(b, multiple * (least + i), multiple * (least + j)) for b, i, j in ((1, 0, 0), (3, 0, 1), (1, 2, 1))]


def _differences(
    part: _Part, run: Callable[[dict[str, Tensor]], Tensor], sizes: Sequence[tuple[int, int, int]], draws: int
) -> list[Difference]:
    """The largest difference at each size; that of a sample is the smallest of up to ``draws`` inputs."""
    found = []
    for size in sizes:
        least, draw = torch.full(size[:1], torch.inf), 0
        while draw < draws and not (least <= TOLERANCE).all():
            draw += 1
            inputs = part.inputs(*size)
            with torch.inference_mode():
                expected = part.network(*inputs)
                try:
                    given = run(dict(zip(part.shapes, inputs, strict=True)))
                except Exception as error:  # each runtime has its own
                    raise UpsrError(
                        f"{part.name}: the graph of {type(part.network).__name__} fails at {size[1]} x {size[2]} "
                        f"({_first_line(error)}); --size H W exports it for one size"
                    ) from None
            if given.shape == expected.shape:
                least = torch.minimum(least, (given - expected).abs().flatten(1).amax(dim=1))
        found.append(Difference(*size, least.max().item(), draw))
    return found


def _write_onnx(part: _Part, program: torch.export.ExportedProgram, path: Path) -> None:
    """One file, weights inside, with named inputs, output and free sides."""
    converted = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(part.shapes),
        output_names=[part.output],
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort()},
        optimize=False,  # its time grows with the square of the graph; runtimes do most of it when they load a file
        verbose=False,
    )
    assert converted is not None  # what dynamo=True returns
    optimizer = importlib.import_module("onnxscript.optimizer")
    optimizer.fold_constants(converted.model)
    optimizer.remove_unused_nodes(converted.model)
    for given, names in zip(converted.model.graph.inputs, part.shapes.values(), strict=True):
        assert given.shape is not None
        for axis, name in enumerate(names):
            if not isinstance(given.shape[axis], int):
                given.shape[axis] = str(name)
    converted.save(path, external_data=False)


def _stable_sort() -> Callable[..., Any]:
    """``aten.sort.stable``, which torch does not convert: ONNX defines that TopK puts equal values in their order."""
    op = importlib.import_module("onnxscript").opset20

    def sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    return sort


def _run_onnx(path: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])


def _write_torch(part: _Part, program: torch.export.ExportedProgram, path: Path) -> None:
    program.example_inputs = None  # they would be stored, and are as large as the weights
    torch.export.save(program, path)


def _run_torch(path: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs.values())


def _write_aoti(part: _Part, program: torch.export.ExportedProgram, path: Path) -> None:
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def _run_aoti(path: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    package = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: package(*inputs.values())


_WRITERS = {"onnx": _write_onnx, "torch": _write_torch, "aoti": _write_aoti}
_RUNNERS = {"onnx": _run_onnx, "torch": _run_torch, "aoti": _run_aoti}


def _network_record(part: _Part, files: Sequence[ExportedFile]) -> dict[str, Any]:
    return {
        "architecture": type(part.network).__name__,
        "parameters": sum(p.numel() for p in part.network.parameters()),
        "weights_sha256": weights_digest(part.network),
        "inputs": part.shapes,
        "output": part.output,
        "files": [asdict(file) for file in files],
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what torch's exporters print and warn about their own insides."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


def _first_line(error: BaseException) -> str:
    """What an exception says, in a line; torch hides the reason of a failed conversion in its cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}" if text else type(error).__name__
