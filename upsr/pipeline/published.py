"""Published weights: files and folders that name no method, which methods know by what is inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upsr.archs import SpandrelSR, ncnn
from upsr.archs.weights import read_weight_file, select_weights
from upsr.config.methods import Found, UnknownMethodError, find_method, method_names
from upsr.errors import UpsrError
from upsr.methods.sr.method import SR

_OWN = "for one of your own the folder of its run, its saved pipeline or its option file"


def named_method(name: str) -> Found:
    """The method of a name or a dotted path.

    Raises:
        UpsrError: there is none.
    """
    try:
        return find_method({"method": name})
    except UnknownMethodError as error:
        raise UpsrError(f"--method, method=: {error}") from None


def published_options(path: Path, wanted: Found | None, parts: Mapping[str, Path]) -> dict[str, Any]:
    """Options of the model in a weight file or a folder.

    Args:
        wanted: the only method that is asked; ``None`` for every one of this package.
        parts: weights of other parts, by the names of these.

    Raises:
        UpsrError: no method knows it, it needs weights of another part, or takes none of a part that was named.
    """
    tensors = [] if path.is_dir() or path.suffix == ncnn.SUFFIX else _tensors(path)
    for found in [wanted] if wanted else map(named_method, method_names()):
        data: dict[str, Any] | None = found.method.assumed(path, tensors, parts)
        if data is not None:
            _refuse_idle(found, data, parts)
            return data
    if not path.is_dir() and not parts and (wanted is None or wanted.method is SR):
        return _of_spandrel(path)
    raise UpsrError(_unknown(path, wanted, parts))


def _tensors(path: Path) -> list[str]:
    return list(select_weights(read_weight_file(path), None, path)[1])


def _refuse_idle(found: Found, data: Mapping[str, Any], parts: Mapping[str, Path]) -> None:
    """Refuse weights of parts that the options do not name."""
    keys: Mapping[str, str] = found.method.weight_keys
    for part, file in parts.items():
        if part not in keys:
            have = f"its parts with weights of their own are {', '.join(keys)}" if keys else "it has no such parts"
            raise UpsrError(f"--part {part}=: {file} would not be read by the method {found.name}; {have}")
        if data["path"].get(keys[part]) != str(file):
            raise UpsrError(f"--part {part}=: {file} would not be read, as --weights names {part}")


def _of_spandrel(path: Path) -> dict[str, Any]:
    try:
        scale = SpandrelSR(str(path)).scale
    except UpsrError as error:
        raise UpsrError(f"{error}; --weights takes {_taken()}, and {_OWN}") from None
    network = {"type": SpandrelSR.__name__, "path": str(path.absolute())}
    return {"method": "sr", "scale": scale, "network_g": network, "path": {}}


def _unknown(path: Path, wanted: Found | None, parts: Mapping[str, Path]) -> str:
    beside = f" with {', '.join(f'{part}={file}' for part, file in parts.items())} beside it" if parts else ""
    if wanted is not None:
        takes = wanted.method.takes or "no weights by themselves"
        return f"{path}{beside}: the method {wanted.name} does not know these weights; it takes {takes}, and {_OWN}"
    what = "neither a saved pipeline (config.json of a UPSRPipeline) nor a training run (options.yml), and "
    what = what if path.is_dir() else ""
    return f"{path}{beside}: {what}no method knows these weights; --weights takes {_taken()}, and {_OWN}"


def _taken() -> str:
    """What all methods take."""
    methods = (named_method(name).method for name in method_names())
    return "; ".join(method.takes for method in methods if method.takes)
