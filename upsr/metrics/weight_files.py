"""Published weights of metrics: the places where their files are looked for."""

from __future__ import annotations

from pathlib import Path

import torch

from upsr.metrics.base import MetricUnavailableError

_PLACES = ("experiments/pretrained_models", "{hub}", "{hub}/pyiqa", "{hub}/checkpoints")
"""``upsr weights fetch`` writes to the first; ``upsr evaluate --metric-weights`` names the hub folder."""


def published_file(metric: str, name: str) -> Path:
    """The file ``name``, which ``upsr weights fetch METRIC`` fetches, in the first of the places that has it.

    Raises:
        MetricUnavailableError: none has.
    """
    places = [Path(place.format(hub=torch.hub.get_dir())) / name for place in _PLACES]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise MetricUnavailableError(
            f"{metric} needs its learned weights, {name}: upsr weights fetch {metric}, "
            f"or name a file by {metric}.weights_path"
        )
    return found
