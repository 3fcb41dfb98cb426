"""Denoisers in OpenVINO, Intel's runtime, on CPUs."""

from __future__ import annotations

import importlib.metadata
import io
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Hashable
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from upsr.accelerate.compiled import OtherForm
from upsr.accelerate.openvino_process import Request, receive, send
from upsr.archs.contracts import DenoisingNetwork
from upsr.errors import MissingPackageError, UpsrError
from upsr.provenance import processor

_MOST_SIZES = 8
"""Each takes seconds to compile, and memory."""

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""Without a hint OpenVINO takes bfloat16 by itself where there is AMX."""

_FARTHEST, _SMALL = 0.1, 0.1
"""Root mean square of the difference from torch in float32, of the result's own, or of 0.1 where that is smaller (a flat
photo). In bfloat16 UPSR-tiny has 0.015 of its own."""

_PROGRAM = "from upsr.accelerate.openvino_process import serve; serve()"


class InOpenVINO(OtherForm):
    """A network that OpenVINO computes in a process of its own, compiled for each size it meets.

    The last 8 sizes are kept; an earlier one is compiled again, so that no result depends on the sizes before it. The first
    result of each is compared with torch's. A size that failed is not tried again.

    Args:
        network: stays as it is.
        dtype: type that OpenVINO computes in.
        device: of the inputs.

    Raises:
        UpsrError: OpenVINO is not installed, or has not this type or device; at a call: it crashed, failed, or
            computed something else than torch.
    """

    def __init__(self, network: DenoisingNetwork, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(network)
        if device.type != "cpu":
            raise UpsrError(f"compile: openvino computes on the CPU, and the device is {device}")
        if dtype not in _PRECISIONS:
            given = str(dtype).removeprefix("torch.")
            raise UpsrError(f"compile: openvino computes in float32 or bfloat16, and dtype is {given}")
        try:
            self._release = importlib.metadata.version("openvino")
        except importlib.metadata.PackageNotFoundError:
            raise MissingPackageError("compile: openvino is not installed; pip install 'upsr[openvino]'") from None
        self._precision = _PRECISIONS[dtype]
        self._sizes: dict[Hashable, None] = {}  # the last one used is the last
        self._failed: dict[Hashable, UpsrError] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        """See :class:`DenoisingNetwork`."""
        size = tuple(tuple(tensor.shape) for tensor in (x, t, lq))
        with self._lock:
            if size in self._failed:
                raise self._failed[size]
            try:
                if size not in self._sizes:
                    return self._first(size, x, t, lq)
                self._sizes[size] = self._sizes.pop(size)
                return self._answer(Request(size, _arrays(x, t, lq)))
            except UpsrError as error:
                self._failed[size] = error
                raise

    def _first(self, size: Hashable, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        """The result of a size that is not compiled, or no longer."""
        start = time.perf_counter()
        dropped = tuple(self._sizes)[: max(len(self._sizes) + 1 - _MOST_SIZES, 0)]
        self._sizes = {kept: None for kept in self._sizes if kept not in dropped}
        settings = {"INFERENCE_PRECISION_HINT": self._precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        script = _script(self.network, (x, t, lq))
        result = self._answer(Request(size, _arrays(x, t, lq), script, settings, dropped))
        self._refuse_other(result, self.network(x, t, lq))
        self._sizes[size] = None
        self.note(x, start)
        return result

    def _answer(self, request: Request) -> Tensor:
        if self._process is None:
            # A session of its own, so that Ctrl-C in a terminal is the caller's alone.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            weakref.finalize(self, _end, self._process)
        try:
            send(cast(IO[bytes], self._process.stdin), request)
            answer = receive(cast(IO[bytes], self._process.stdout))
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = self._ended()
            raise self._failure(f"its process ended with {_name(code)}") from error
        except BaseException:  # the answer that is still to come must not be taken for that of another call
            self._process.kill()
            self._ended()
            raise
        if isinstance(answer, str):
            raise self._failure(answer)
        return torch.from_numpy(answer)

    def _ended(self) -> int:
        """The exit code of the process, which is no more."""
        process, self._process = cast("subprocess.Popen[bytes]", self._process), None
        self._sizes = {}
        return _end(process)

    def _refuse_other(self, result: Tensor, expected: Tensor) -> None:
        error, size = (float(x.square().mean().sqrt()) for x in (result - expected, expected))
        if not error <= _FARTHEST * max(size, _SMALL):  # nor is a result that is not finite
            raise self._failure(f"its result is {error:.2g} from torch's, which is {size:.2g}, in root mean square")

    def _failure(self, reason: str) -> UpsrError:
        return UpsrError(
            f"OpenVINO does not compute the denoiser here ({reason}); go without it (--compile none). To report it: "
            f"OpenVINO {self._release}, torch {torch.__version__}, {processor()}"
        )


def _arrays(*inputs: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in inputs]


def _script(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The network in TorchScript, which holds for the sizes of the inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants, as they should
        traced: Any = torch.jit.trace(network, inputs, check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    return file.getvalue()


def _end(process: subprocess.Popen[bytes]) -> int:
    """End the process; its exit code, which is that of its own end where it has ended."""
    for pipe in (process.stdin, process.stdout):
        try:
            cast(IO[bytes], pipe).close()
        except OSError:  # what was not yet sent has no reader
            continue
    try:
        return process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"
