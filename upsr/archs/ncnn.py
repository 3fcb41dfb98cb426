"""Reads super-resolution networks from ncnn's two files, NAME.param (layers, text) and NAME.bin (weights).

Two networks are read: RRDBNet x4 (ESRGAN, RealSR, Real-ESRGAN) with any number of blocks, and SRVGGNetCompact
(realesr-animevideov3). The kinds of the layers in their order say which it is; every setting that changes what is computed is
checked. How the layers are wired is not: for these kinds in this order it is the networks' own wiring.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upsr.errors import UpsrError

SUFFIX = ".param"

_MAGIC = "7767517"
_LARGEST_PARAM = 4 << 20  # bytes; Real-ESRGAN's has 116,029
_LARGEST_COUNT = 1 << 16  # channels
_FLOAT16 = 0x01306B47
_FLOAT32 = (0, 0x0002C056)

_LETTERS = {
    "Convolution": "C",
    "PReLU": "P",
    "Concat": "K",
    "Eltwise": "E",
    "BinaryOp": "B",
    "Interp": "I",
    "PixelShuffle": "S",
    "Input": "",
    "Split": "",
}
_RRDBNET = "C((CKCKCKCKCE){3}E)+CBICICCC"
_COMPACT = "(CP)+CSIB"
_GROWTH = 32  # channels that a dense block's convolution adds; spandrel's RRDBNet has no other

Settings = Mapping[int, tuple[float, ...]]

_DEFAULTS: Settings = {2: (1,), 3: (1,), 9: (0,), 10: ()}
"""Of a convolution: dilation, stride, activation and its parameters."""
_CONVOLUTION: Settings = {1: (3,), 2: (1,), 3: (1,), 4: (1,), 5: (1,)}
"""3x3, no dilation, stride 1, padding 1, with a bias."""
_PLAIN: Settings = {9: (0,), 10: ()}
_LEAKY: Settings = {9: (2,), 10: (0.2,)}


@dataclass(frozen=True)
class _Layer:
    """A line of a .param.

    Attributes:
        where: file and line, for messages.
        settings: by ncnn's number for each.
    """

    kind: str
    where: str
    settings: Settings

    def count(self, key: int) -> int:
        """A setting that is a positive whole number."""
        (value, *more) = self.settings.get(key, (math.nan,))
        if more or not 1 <= value <= _LARGEST_COUNT or value != int(value):
            raise UpsrError(f"{self.where}: {key}= of a {self.kind} must be a whole number from 1 to {_LARGEST_COUNT}")
        return int(value)

    def require(self, settings: Settings) -> None:
        """Refuse a layer that computes something else."""
        for key, want in settings.items():
            have = self.settings.get(key, _DEFAULTS.get(key, (0,)))
            if len(have) != len(want) or any(abs(a - b) > 1e-6 for a, b in zip(have, want, strict=True)):
                raise UpsrError(
                    f"{self.where}: a {self.kind} with {key}={_shown(have)} where the network has {_shown(want)}"
                )


@dataclass(frozen=True)
class _Weighted:
    """A layer with weights, under its name in the state dict.

    Attributes:
        shape: of the weight.
    """

    name: str
    layer: _Layer
    shape: tuple[int, ...]


def read_ncnn(param: str | Path) -> dict[str, Tensor]:
    """The float32 state dict, with BasicSR's keys, of the network in ``param`` and the ``.bin`` beside it.

    Raises:
        UpsrError: a file is missing, damaged, or of another network.
    """
    param = Path(param)
    layers = _read_layers(param)
    kinds = "".join(_LETTERS.get(layer.kind, "?") for layer in layers)
    if re.fullmatch(_RRDBNET, kinds):
        parts = _rrdbnet([layer for layer in layers if _LETTERS[layer.kind]])
    elif re.fullmatch(_COMPACT, kinds):
        parts = _compact([layer for layer in layers if _LETTERS[layer.kind]])
    else:
        raise UpsrError(
            f"{param}: its layers are neither RRDBNet's (x4) nor SRVGGNetCompact's as ncnn's optimiser leaves them; "
            "of realesr-animevideov3 only the x4 file is the network alone"
        )
    return _read_weights(param.with_suffix(".bin"), list(parts))


def _read_layers(param: Path) -> list[_Layer]:
    try:
        if param.stat().st_size > _LARGEST_PARAM:
            raise UpsrError(f"{param}: larger than any .param of ncnn that is read here ({_LARGEST_PARAM} bytes)")
        lines = param.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UpsrError(f"{param}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        lines = []
    if not lines or lines[0].strip() != _MAGIC:
        raise UpsrError(f"{param}: not a text .param of ncnn, which begins with {_MAGIC}")
    layers = [
        _read_layer(line, f"{param}: line {number}") for number, line in enumerate(lines[2:], start=3) if line.strip()
    ]
    if not lines[1:] or lines[1].split()[:1] != [str(len(layers))]:
        raise UpsrError(f"{param}: line 2 does not give the number of layers that follow, {len(layers)}; is it whole?")
    return layers


def _read_layer(line: str, where: str) -> _Layer:
    """Kind, name, numbers of inputs and outputs, their names, and ``number=value`` settings."""
    try:
        kind, _, inputs, outputs, *rest = line.split()
        if min(int(inputs), int(outputs)) < 0 or len(rest) < int(inputs) + int(outputs):
            raise ValueError
        return _Layer(kind, where, dict(_setting(text) for text in rest[int(inputs) + int(outputs) :]))
    except ValueError:
        raise UpsrError(f"{where}: not a layer of ncnn") from None


def _setting(text: str) -> tuple[int, tuple[float, ...]]:
    """A number and its values: ``6=1728`` is setting 6; ``-23310=1,0.2`` is setting 10, an array of length 1."""
    key, value = text.split("=")
    if int(key) <= -23300:
        length, *items = value.split(",")
        if int(length) != len(items):
            raise ValueError
        return -23300 - int(key), tuple(map(float, items))
    return int(key), (float(value),)


def _rrdbnet(layers: Sequence[_Layer]) -> Iterator[_Weighted]:
    """The convolutions of RRDBNet, with what else it does checked."""
    convolutions = [layer for layer in layers if layer.kind == "Convolution"]
    blocks = (len(convolutions) - 6) // 15
    width = convolutions[0].count(0)
    dense = [(_GROWTH, width + i * _GROWTH, _LEAKY) for i in range(4)] + [(width, width + 4 * _GROWTH, _PLAIN)]
    names = [f"body.{b}.rdb{r}.conv{c}" for b in range(blocks) for r in (1, 2, 3) for c in range(1, 6)]
    same = (width, width)
    table = [
        ("conv_first", (width, 3, _PLAIN)),
        *zip(names, dense * (3 * blocks), strict=True),
        ("conv_body", (*same, _PLAIN)),
        *((name, (*same, _LEAKY)) for name in ("conv_up1", "conv_up2", "conv_hr")),
        ("conv_last", (3, width, _PLAIN)),
    ]
    for layer, (name, (out, channels, activation)) in zip(convolutions, table, strict=True):
        yield _convolution(name, layer, out, channels, activation)
    for layer in layers:
        if layer.kind == "Interp":
            layer.require({0: (1,), 1: (2,), 2: (2,)})  # nearest neighbour, x2
        elif layer.kind == "Eltwise":
            layer.require({0: (1,), 1: (0.2, 1)})  # 0.2 x the branch + the input
        elif layer.kind in ("Concat", "BinaryOp"):
            layer.require({0: (0,)})  # channels; addition


def _compact(layers: Sequence[_Layer]) -> Iterator[_Weighted]:
    """The convolutions and slopes of SRVGGNetCompact, with what else it does checked."""
    *body, last, shuffle, enlarge, addition = layers
    width, scale = body[0].count(0), shuffle.count(0)
    enlarge.require({0: (1,), 1: (scale,), 2: (scale,)})  # nearest neighbour
    addition.require({0: (0,)})
    for i, layer in enumerate(body):
        if layer.kind == "PReLU":
            layer.require({0: (width,)})
            yield _Weighted(f"body.{i}", layer, (width,))
        else:
            yield _convolution(f"body.{i}", layer, width, width if i else 3, _PLAIN)
    yield _convolution(f"body.{len(body)}", last, 3 * scale**2, width, _PLAIN)


def _convolution(name: str, layer: _Layer, out: int, channels: int, activation: Settings) -> _Weighted:
    layer.require({**_CONVOLUTION, **activation, 0: (out,), 6: (out * channels * 9,)})
    return _Weighted(name, layer, (out, channels, 3, 3))


def _read_weights(path: Path, parts: Sequence[_Weighted]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    largest = sum(4 + 4 * (math.prod(part.shape) + part.shape[0]) for part in parts)
    try:
        if (size := path.stat().st_size) > largest:
            raise UpsrError(f"{path}: {size} bytes, and the layers of the .param have {largest}; not the file of it")
        blob = _Bin(path, path.read_bytes())
    except OSError as error:
        raise UpsrError(f"{path}: cannot be read ({error.strerror}); it holds the weights of the .param") from None
    for part in parts:
        if len(part.shape) == 1:
            state[f"{part.name}.weight"] = blob.float32(part.shape)
        else:
            state[f"{part.name}.weight"] = blob.tagged(part.shape)
            state[f"{part.name}.bias"] = blob.float32(part.shape[:1])
    blob.end()
    return state


class _Bin:
    """A .bin, read from its beginning. Nothing is allocated that its size does not cover."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    def _take(self, dtype: str, count: int) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        if size > len(self._data) - self._at:
            raise UpsrError(f"{self._path}: ends before the weights of the .param do; is it whole?")
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += -(-size // 4) * 4  # everything begins at a multiple of 4 bytes
        return values

    def float32(self, shape: tuple[int, ...], dtype: str = "<f4") -> Tensor:
        """Values as they are."""
        values = torch.from_numpy(self._take(dtype, math.prod(shape)).astype(np.float32)).view(shape)
        if not torch.isfinite(values).all():
            raise UpsrError(f"{self._path}: holds weights that are no finite numbers; not the file of this .param")
        return values

    def tagged(self, shape: tuple[int, ...]) -> Tensor:
        """Values behind the tag that says how they are stored."""
        tag = int(self._take("<u4", 1)[0])
        if tag == _FLOAT16:
            return self.float32(shape, "<f2")
        if tag in _FLOAT32:
            return self.float32(shape)
        raise UpsrError(
            f"{self._path}: weights with the tag {tag:#010x} are not read (float16 and float32 are; int8 is not), "
            "or it is not the file of this .param"
        )

    def end(self) -> None:
        """Refuse a file with more in it."""
        if self._at < len(self._data):
            raise UpsrError(
                f"{self._path}: {len(self._data) - self._at} bytes are left over; not the file of this .param"
            )


def _shown(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values) or "none"
