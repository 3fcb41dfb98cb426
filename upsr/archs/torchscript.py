"""Weights out of TorchScript archives, whose programs are not run."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_OBJECTS = "data.pkl"
_MARK = "constants.pkl"
"""The file that torch knows a TorchScript archive by."""
_CLASSES = ("__torch__", "torch.jit._pickle")
"""Modules of what an archive's objects are of: its own program, and torch's marks of typed lists."""


class _Object:
    """Takes the place of an object of the program: its attributes and nothing else."""

    def __init__(self, *_: Any) -> None: ...


def is_torchscript(path: Path) -> bool:
    """The file is an archive that ``torch.jit.save`` has written."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(_inside(name) == _MARK for name in archive.namelist())


def torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript module by their names, on the CPU: parameters, buffers and other attributes.

    ``torch.jit.load`` would compile and may run what the archive holds. Here the code is left out, the classes of the module are
    empty ones, and the rest is read as ``torch.load(weights_only=True)`` reads any file, which refuses everything else.

    Raises:
        Exception: the archive is damaged or holds other objects, as the readers of torch and zip files raise it.
    """
    plain = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(plain, "w") as copy:
        names = [name for name in archive.namelist() if _inside(name) in (_OBJECTS, "version", "byteorder")]
        names += [name for name in archive.namelist() if _inside(name).startswith("data/")]
        for name in names:
            copy.writestr(name, archive.read(name))
        classes = [kind for name in names if _inside(name) == _OBJECTS for kind in _classes(archive.read(name))]
    plain.seek(0)
    with torch.serialization.safe_globals(classes):
        module = torch.load(plain, map_location="cpu", weights_only=True)
    return dict(_tensors(module, ""))


def stand_in(name: str, base: type) -> type:
    """A class of the module and name of one that is not imported, without anything but what ``base`` gives it."""
    module, _, bare = name.rpartition(".")
    return type(bare, (base,), {"__module__": module})


def _inside(name: str) -> str:
    """A name in an archive below the archive's folder."""
    return name.partition("/")[2]


def _classes(pickled: bytes) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """An empty class for each that the program's objects are of; nothing is unpickled for this."""
    found = {str(argument) for opcode, argument, _ in pickletools.genops(pickled) if opcode.name == "GLOBAL"}
    return [stand_in(name.replace(" ", "."), _Object) for name in found if name.startswith(_CLASSES)]


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Object):
        for key, part in vars(value).items():
            yield from _tensors(part, f"{name}.{key}" if name else key)
