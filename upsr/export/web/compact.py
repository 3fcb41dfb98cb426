"""ONNX files with fewer bytes for each weight; runtimes compute in float32 as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from upsr.export.formats import package

Storage = Literal["float16", "int8"]
"""Type that weights are stored in; int8 has a factor for each output channel, as ``--dtype int8`` of ``upsr upscale``."""

_LEAST = 1024
"""Values below which a tensor stays as it is: biases, scales of norms, positions."""
_WEIGHT_INPUT = {"Conv": 1, "Gemm": 1, "MatMul": 1}


def store_weights(path: Path, storage: Storage) -> None:
    """Rewrite an ONNX file, in place.

    A stored weight is followed by a Cast, and by a product with its factors. Runtimes compute these once, when they load the
    file, so nothing is slower. (Of DequantizeLinear they do not, unless an option says so.) Names of source files and lines,
    which torch writes into every node, are left out.
    """
    onnx = package("onnx")
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    before: list[Any] = []
    for name in _weights(model.graph):
        tensor = tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        stored, factors = (values.astype(np.float16), None) if storage == "float16" else _quantised(values)
        tensor.CopyFrom(onnx.numpy_helper.from_array(stored, f"{name}.stored"))
        cast = name if factors is None else f"{name}.cast"
        before.append(onnx.helper.make_node("Cast", [f"{name}.stored"], [cast], to=onnx.TensorProto.FLOAT))
        if factors is not None:
            model.graph.initializer.append(onnx.numpy_helper.from_array(factors, f"{name}.factors"))
            before.append(onnx.helper.make_node("Mul", [cast, f"{name}.factors"], [name]))
    nodes = [*before, *model.graph.node]
    del model.graph.node[:], model.graph.value_info[:]
    for node in nodes:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        model.graph.node.append(node)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _weights(graph: Any) -> Iterator[str]:
    """Names of what convolutions and matrix products take as their weights, each once."""
    seen = set()
    for node in graph.node:
        place = _WEIGHT_INPUT.get(node.op_type)
        if place is not None and node.input[place] not in seen:
            seen.add(node.input[place])
            yield node.input[place]


def _quantised(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers, and the factors that they are multiplied by: of the first side or of the last, whichever is closer.

    Output channels are the first side of a convolution's weight, and either of a matrix's.
    """
    found = [_along(values, axis) for axis in {0, values.ndim - 1 if values.ndim == 2 else 0}]
    return min(found, key=lambda pair: float(np.square(pair[0] * pair[1] - values).sum()))


def _along(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    factors = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / factors).astype(np.int8), factors
