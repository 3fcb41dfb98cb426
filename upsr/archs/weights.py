"""Network weights from files: released layouts, BasicSR's, plain state dicts, safetensors."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upsr.archs.torchscript import is_torchscript, stand_in, torchscript_tensors
from upsr.errors import MissingFileError, UpsrError

_SHOWN = 3
_WRAPPERS = ("module", "_orig_mod")
"""The prefixes of torch's data-parallel wrappers and of torch.compile."""
_UNWRAPPED = ("params_ema", "params", "params-ema", "state_dict", "model_state_dict", "model", "net")
"""Keys that the state dict stands under in files of this field, the first that is there counts."""
_IN_STATES = {"players", "iteration", "position"}
"""Keys that training states have (upsr/engine/checkpoint.py)."""
_LARGEST_HEADER = 100 << 20  # bytes; what the safetensors library takes


def read_weight_file(
    path: str | Path, *, mapped: bool = False, blank: Sequence[str] = (), scripted: bool = False
) -> dict[str, Any]:
    """The content of a safetensors or torch file, whichever it is by its bytes; only tensors and plain values are unpickled.

    Args:
        mapped: the tensors of a torch file stay in the file until they are used.
        blank: classes, by module and name, of objects that a torch file may hold. None of them is imported: empty objects
            stand in the content.
        scripted: of a TorchScript archive the tensors are read, by :func:`upsr.archs.torchscript.torchscript_tensors`.

    Raises:
        MissingFileError: there is no such file.
        UpsrError: it is damaged, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such weight file", path)
    try:
        archive = scripted and is_torchscript(path)
        content = torchscript_tensors(path) if archive else _content(path, mapped, blank)
    except Exception as error:  # damaged files fail in many ways inside the readers
        raise UpsrError(f"{path}: {_complaint(error)}") from None
    if not isinstance(content, dict):
        raise UpsrError(f"{path}: a weight file holds a dictionary of tensors, not a {type(content).__name__}")
    return content


class _Blank:
    """Takes the place of an object of a class that is not imported."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _content(path: Path, mapped: bool, blank: Sequence[str]) -> Any:
    if _is_safetensors(path):
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals([stand_in(name, _Blank) for name in blank]):
        warnings.simplefilter("ignore")  # about how foreign files were pickled
        # Files older than torch 1.6 are no zip archives, and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))


def _is_safetensors(path: Path) -> bool:
    """The file begins as a safetensors file does: the length of its header, and the header's first character."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER


def _complaint(error: Exception) -> str:
    """Why a file cannot be read, without torch's own advice, which is to run what is inside."""
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"holds more than tensors and plain values ({found[1]}), which would be run as a program and is not read; "
            "ask its author for the state dict alone, best as .safetensors"
        )
    if "TorchScript" in text:
        return "a TorchScript program and not weights; save its state dict instead"
    reason = "" if "weights_only" in text else text[:160]
    return (
        "not a readable weight file: damaged, not fully downloaded, or neither safetensors nor torch's"
        f" ({': '.join(filter(None, [type(error).__name__, reason]))})"
    )


def select_weights(
    content: Mapping[str, Any], param_key: str | None, source: str | Path
) -> tuple[str, dict[str, Tensor]]:
    """The state dict inside a file's content, and the key it stood under (``"root"`` for the content itself).

    Without ``param_key``: ``params_ema``, else ``params`` or another usual key, else the content. What wrappers and
    ``torch.compile`` add to the names is removed.

    Raises:
        UpsrError: there is no state dict, one of its values is not finite, or it is the state of a training.
    """
    if content.keys() >= _IN_STATES:
        raise UpsrError(f"{source}: the state of a training, not weights; {_weights_beside(Path(source))}")
    key = param_key or next((key for key in _UNWRAPPED if isinstance(content.get(key), Mapping)), "root")
    if key != "root" and key not in content:
        raise UpsrError(f"{source}: no weights under '{key}'; the file has {', '.join(map(str, list(content)[:5]))}")
    weights = content if key == "root" else content[key]
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UpsrError(f"{source}: what stands under '{key}' is no state dict")
    check_finite(weights, source)
    return key, unwrapped(weights, source)


def _weights_beside(state: Path) -> str:
    """The weight files that a run has written with a training state ``training_states/N.state``."""
    models = state.parent.parent / "models"
    found = sorted(models.glob(f"net_*_{state.stem}.*")) or sorted(models.glob("net_*_latest.*"))
    files = " or ".join(map(str, found)) or f"{models / f'net_g_{state.stem}.safetensors'}, which is not here"
    return f"the weights of its run are {files}; a training goes on from it by path.resume_state"


def unwrapped(weights: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The weights under the names of the network inside all wrappers, in whatever order these are.

    Raises:
        UpsrError: two of them would have one name.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        bare = _unwrapped_name(name)
        if bare in found:
            raise UpsrError(
                f"{source}: holds '{bare}' twice, with and without the prefix of a wrapper, such as '{name}'"
            )
        found[bare] = value
    return found


def _unwrapped_name(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    # A part of a network may have been compiled alone.
    return ".".join(part for part in parts if part != "_orig_mod")


def check_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that would make every result black or empty.

    Raises:
        UpsrError: a value is NaN or infinite; the message names file and tensor.
    """
    bad = [name for name, value in weights.items() if not _is_finite(value)]
    if bad:
        names = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise UpsrError(
            f"{source}: {len(bad)} of {len(weights)} tensors hold values that are not finite ({names}): the training "
            "diverged or the file is damaged; take an earlier checkpoint or fetch it again"
        )


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point():
        return True
    value = value.float()
    # A sum takes one pass and no memory; it may overflow where the values do not.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """The reasons why ``weights`` cannot be loaded into a network with the state dict ``own``; empty if nothing does."""
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    reshaped = [
        f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    return [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", reshaped))
        if names
    ]


def load_network_weights(
    network: nn.Module, path: str | Path, *, param_key: str | None = None, strict: bool = True
) -> str:
    """Fill a network from a file.

    Args:
        path: ``.safetensors`` or a torch file in the released or BasicSR's layout. A network with ``other_layouts()``,
            state dicts under other names whose tensors are views of its own, also takes files of these names.
        param_key: key inside the file, see :func:`select_weights`.
        strict: every key must fit; otherwise keys that are missing, unknown or of another shape are left out.

    Returns:
        The key that was read.

    Raises:
        UpsrError: the file cannot be read or does not fit; the message lists what does not.
    """
    key, weights = select_weights(read_weight_file(path), param_key, path)
    others: Callable[[], list[dict[str, Tensor]]] = getattr(network, "other_layouts", list)
    layouts = [network.state_dict(), *others()]
    own = max(layouts, key=lambda layout: len(layout.keys() & weights.keys()))
    faults = misfits(own, weights)
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    if faults and (strict or not fitting):
        raise UpsrError(
            f"{path}: the weights under '{key}' are not those of this {type(network).__name__}: "
            f"{'; '.join(faults)}; check the network's options and the file"
        )
    if own is layouts[0]:
        network.load_state_dict(fitting, strict=False)
        return key
    for name, value in fitting.items():
        own[name].copy_(value)
    return key
