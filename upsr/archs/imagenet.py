"""Weights of torchvision's networks, as trained on ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from upsr.errors import UpsrError


class BackboneUnavailableError(UpsrError):
    """A backbone that is neither in a local folder nor reachable."""


def fetched(weights: Any, key: str) -> Mapping[str, Any]:
    """The state dict of an entry of torchvision's weight enumerations, from torch's hub folder or the network.

    Args:
        key: option that may hold the path of the file, for messages.

    Raises:
        BackboneUnavailableError: it is in neither.
    """
    try:
        found: Mapping[str, Any] = weights.get_state_dict(progress=True, check_hash=True)
        return found
    except (URLError, OSError, RuntimeError) as error:
        name = Path(weights.url).name
        raise BackboneUnavailableError(
            f"{name} could not be fetched ({error}). On a machine with internet access: upsr weights fetch {name} "
            f"(from {weights.url}); then set {key} to the file, or put it into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from None
