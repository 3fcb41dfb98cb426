"""The process in which OpenVINO computes. What crashes there leaves the caller alive."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np
import torch


@dataclass(frozen=True)
class Request:
    """A call of a network.

    Attributes:
        size: names the compiled form; the process keeps it until a request has it in ``dropped``.
        arrays: inputs.
        script: the network in TorchScript, with the first request of a size.
        settings: for OpenVINO's plugin of CPUs, with the first request of a size.
        dropped: sizes whose compiled forms are no longer needed.
    """

    size: Hashable
    arrays: list[np.ndarray]
    script: bytes | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[Hashable, ...] = ()


def serve() -> None:
    """Answer requests on standard input until it ends: with the output, or with the reason why there is none."""
    # Imported with its package for telemetry, OpenVINO reports every import and conversion to its maker; it runs without.
    cast(Any, sys.modules)["openvino_telemetry"] = None
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing else may be printed between the answers
    kept: dict[Hashable, Any] = {}
    while True:
        try:
            request = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            send(answers, _answer(request, kept))
        except Exception as error:  # OpenVINO has its own kinds
            send(answers, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def send(pipe: IO[bytes], what: Any) -> None:
    """Write an object."""
    pickle.dump(what, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read an object.

    Raises:
        EOFError: the other process has ended.
    """
    return pickle.load(pipe)


def _answer(request: Request, kept: dict[Hashable, Any]) -> np.ndarray:
    for size in request.dropped:
        kept.pop(size, None)
    if request.script is not None:
        kept[request.size] = _compiled(request)
    found = kept[request.size].infer(request.arrays, share_inputs=True)
    return np.array(found[0])


def _compiled(request: Request) -> Any:
    import openvino

    network = torch.jit.load(io.BytesIO(cast(bytes, request.script)))
    inputs = tuple(torch.from_numpy(array) for array in request.arrays)
    model = openvino.convert_model(network, example_input=inputs, input=[list(array.shape) for array in request.arrays])
    return openvino.Core().compile_model(model, "CPU", dict(request.settings)).create_infer_request()
