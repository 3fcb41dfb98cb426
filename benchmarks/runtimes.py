"""UPSR's exported networks in other runtimes, beside ours: time, and how far the results are from torch's.

examples:
  python benchmarks/runtimes.py                                # UPSR-tiny, 64 x 64 LR, photos inside scikit-image
  python benchmarks/runtimes.py --weights full --side 128      # the size of the paper, random weights
  pip install openvino; python benchmarks/runtimes.py          # with rows of OpenVINO

Inputs are those of restorations of photos. W8A8 are 8-bit weights and activations of the products and convolutions, static, with
ranges of a quarter of the inputs; the others are measured. All forms take turns on one input; times are medians. "Within a level"
is the share of values that differ from plain torch in float32 by less than 1/255 of the range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import FULL_SIZE, machine
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions, __version__
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from plain import plain_of
from torch import Tensor, nn

from upsr.config import load_options
from upsr.config.schema import Component
from upsr.devices import CPU
from upsr.export.export import exported_of, write
from upsr.export.trace import Sizes, trace
from upsr.methods import build_method
from upsr.methods.base import Method
from upsr.methods.graphs import Graph
from upsr.pipeline.pipeline import UPSRPipeline
from upsr.restoring.restore import restore

try:
    import openvino
except ImportError:
    openvino = None

PLAIN = "plain torch, float32"
Run = Callable[[Sequence[Tensor]], Tensor]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny", help="as for upsr upscale, or full: random ones (tiny)")
    parser.add_argument("--side", type=int, default=64, metavar="N", help="of LR images (64)")
    parser.add_argument("--crops", type=int, default=8, metavar="N", help="of photos (8)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns (5)")
    parser.add_argument("--networks", nargs="+", default=["g", "denoiser"], metavar="NAME", help="(g denoiser)")
    given = parser.parse_args()
    method, architectures = _method(given.weights)
    inputs = recorded(method, given.side, given.crops)
    others = f"ONNX Runtime {__version__}" + (f", OpenVINO {openvino.__version__}" if openvino else "")
    print(f"{machine(CPU)}; {others}; {given.weights}, {given.side} x {given.side} LR\n")
    print("| network | form | seconds | plain / it | largest difference | within a level |")
    print("|---|---|---:|---:|---:|---:|")
    for graph in exported_of(method, given.weights).graphs:
        if graph.name in given.networks:
            with tempfile.TemporaryDirectory() as folder:
                plain = plain_of(architectures[graph.name], method.parts()[graph.name])
                for line in rows(method, graph, plain, inputs[graph.name], Path(folder), given):
                    print(line, flush=True)
    return 0


def _method(weights: str) -> tuple[Method, dict[str, Component]]:
    """A method, and what its networks are."""
    if weights == "full":
        opt = load_options(FULL_SIZE, ["path.allow_random_weights=true"])
        return build_method(opt).eval(), {"denoiser": opt.network_g, "g": opt.network_aux}
    pipe = UPSRPipeline.from_pretrained(weights, dtype="float32", device="cpu")
    sections = {"denoiser": "network_g", "g": "network_aux"}
    return pipe.method.eval(), {name: Component(**pipe.config[section]) for name, section in sections.items()}


def recorded(method: Method, side: int, crops: int) -> dict[str, list[tuple[Tensor, ...]]]:
    """What the networks are given while photos are restored, by their names."""
    from skimage import data

    found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in method.parts()}
    hooks = [
        part.register_forward_pre_hook(
            lambda _, inputs, name=name: found[name].append(tuple(x.clone() for x in inputs))
        )
        for name, part in method.parts().items()
    ]
    photos = [torch.from_numpy(image()).permute(2, 0, 1)[None].float() / 255 for image in (data.astronaut, data.coffee)]
    random = np.random.default_rng(0)
    for number in range(crops):
        photo = photos[number % len(photos)]
        small = torch.nn.functional.interpolate(photo, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (int(random.integers(0, length - side)) for length in small.shape[2:])
        restore(method, small[..., top : top + side, left : left + side], seed=0, names=[str(number)])
    for hook in hooks:
        hook.remove()
    return found


def rows(
    method: Method,
    graph: Graph,
    plain: nn.Module,
    inputs: list[tuple[Tensor, ...]],
    folder: Path,
    given: argparse.Namespace,
) -> Iterator[str]:
    """The lines of a network's forms, measured by turns."""
    kept = len(inputs) // 4
    forms = dict(_forms(method, graph, plain, inputs[:kept], folder, given.side))
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    errors: dict[str, list[Tensor]] = {name: [] for name in forms}
    measured = inputs[kept:]
    with torch.inference_mode():
        for turn in range(-1, max(given.rounds, len(measured))):
            given_now = measured[turn % len(measured)]
            results = {}
            for name, run in forms.items():
                began = time.perf_counter()
                results[name] = run(given_now)
                if 0 <= turn < given.rounds:
                    seconds[name].append(time.perf_counter() - began)
            for name, result in results.items():
                errors[name].append((result - results[PLAIN]).abs())
    usual = statistics.median(seconds[PLAIN])
    span = 1 if graph.name == "g" else 2
    for name in forms:
        own, error = statistics.median(seconds[name]), torch.cat([e.flatten() for e in errors[name]]) / span
        within = float((error < 1 / 255).float().mean())
        yield f"| {graph.name} | {name} | {own:.3f} | {usual / own:.2f} | {float(error.max()):.1e} | {within:.2%} |"


def _forms(
    method: Method, graph: Graph, plain: nn.Module, calibration: list[tuple[Tensor, ...]], folder: Path, side: int
) -> Iterator[tuple[str, Run]]:
    yield PLAIN, lambda inputs: plain(*inputs)
    ours = method.for_inference(torch.float32).parts()[graph.name]
    yield "ours, float32", lambda inputs: ours(*inputs)
    if graph.name == "denoiser":
        low = method.for_inference(torch.bfloat16).parts()[graph.name]
        yield "ours, bfloat16", lambda inputs: low(*inputs)
    sizes = Sizes(method.facts.multiple, (side, side))
    write(trace(graph, sizes), "onnx", folder, sizes, check=False)
    path, names = folder / f"{graph.name}.onnx", list(graph.inputs)
    yield "ONNX Runtime, float32", _onnxruntime(path, names)
    if openvino:
        yield "OpenVINO, float32", _openvino(path, names, "f32")
        yield "OpenVINO, bfloat16", _openvino(path, names, "bf16")
    if graph.name == "denoiser":
        low_path = _quantised(path, names, calibration)
        yield "ONNX Runtime, W8A8", _onnxruntime(low_path, names)
        if openvino:
            yield "OpenVINO, W8A8, the rest float32", _openvino(low_path, names, "f32")
            yield "OpenVINO, W8A8, the rest bfloat16", _openvino(low_path, names, "bf16")


def _arrays(names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, Any]:
    return {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}


def _onnxruntime(path: Path, names: Sequence[str]) -> Run:
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, _arrays(names, inputs))[0])


def _openvino(path: Path, names: Sequence[str], precision: str) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda inputs: torch.from_numpy(model(_arrays(names, inputs))[0].copy())


def _quantised(path: Path, names: Sequence[str], calibration: list[tuple[Tensor, ...]]) -> Path:
    """The file with 8-bit products and convolutions."""
    prepared, made = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> Any:
            inputs = next(self.left, None)
            return None if inputs is None else _arrays(names, inputs)

    quantize_static(
        prepared,
        made,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
