"""Network weights from files: released layouts, BasicSR's, plain state dicts, safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upsr.errors import UpsrError

_SHOWN = 3


def read_weight_file(path: str | Path) -> dict[str, Any]:
    """The content of a ``.safetensors`` or torch file; only tensors and plain values are unpickled.

    Raises:
        UpsrError: the file is missing, damaged, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UpsrError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways inside the readers
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else ""
        raise UpsrError(
            f"{path}: not a readable weight file, or one that holds more than tensors ({type(error).__name__}: {reason})"
        ) from None
    if not isinstance(content, dict):
        raise UpsrError(f"{path}: a weight file holds a dictionary of tensors, not a {type(content).__name__}")
    return content


def select_weights(
    content: Mapping[str, Any], param_key: str | None, source: str | Path
) -> tuple[str, dict[str, Tensor]]:
    """The state dict inside a file's content, and the key it stood under (``"root"`` for the content itself).

    Without ``param_key``: ``params_ema``, else ``params``, else the content. A leading ``module.`` is removed.
    """
    key = param_key or next((key for key in ("params_ema", "params") if key in content), "root")
    if key != "root" and key not in content:
        raise UpsrError(f"{source}: no weights under '{key}'; the file has {', '.join(map(str, list(content)[:5]))}")
    weights = content if key == "root" else content[key]
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UpsrError(f"{source}: what stands under '{key}' is no state dict")
    return key, {name.removeprefix("module."): value for name, value in weights.items()}


def misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``weights`` from being loaded into a network with the state dict ``own``; empty if nothing does."""
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
        path: ``.safetensors`` or a torch file in the released or BasicSR's layout.
        param_key: key inside the file, see :func:`select_weights`.
        strict: every key must fit; otherwise keys that are missing, unknown or of another shape are left out.

    Returns:
        The key that was read.

    Raises:
        UpsrError: the file cannot be read or does not fit; the message lists what does not.
    """
    key, weights = select_weights(read_weight_file(path), param_key, path)
    own = network.state_dict()
    faults = misfits(own, weights)
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    if faults and (strict or not fitting):
        raise UpsrError(
            f"{path}: the weights under '{key}' are not those of this {type(network).__name__}: "
            f"{'; '.join(faults)}; check the network's options and the file"
        )
    network.load_state_dict(fitting, strict=False)
    return key
