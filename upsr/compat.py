"""The one place that makes basicsr 1.4.2 importable and hands out its registries.

basicsr imports ``torchvision.transforms.functional_tensor``, which torchvision removed in 0.17. Everything
in this project that needs basicsr imports this module first, so the mend happens exactly once.
"""

from __future__ import annotations

import sys
import types

import torchvision.transforms.functional as _functional


def _restore_functional_tensor() -> None:
    name = "torchvision.transforms.functional_tensor"
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.rgb_to_grayscale = _functional.rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[name] = module


_restore_functional_tensor()

from basicsr.utils.registry import (  # noqa: E402  (must follow the mend)
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    Registry,
)

ENTRY_REGISTRY = Registry("entry")
"""Ways to get a restored image that evaluation can measure."""

BENCHMARK_PREPARER_REGISTRY = Registry("benchmark preparer")
"""Ways to make a benchmark's folder from a download."""

REGISTRIES = {
    registry._name: registry
    for registry in (
        ARCH_REGISTRY,
        BENCHMARK_PREPARER_REGISTRY,
        DATASET_REGISTRY,
        ENTRY_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
    )
}
"""By their names, which :attr:`upsr.config.schema.Component.registry` gives."""

__all__ = [
    "ARCH_REGISTRY",
    "BENCHMARK_PREPARER_REGISTRY",
    "DATASET_REGISTRY",
    "ENTRY_REGISTRY",
    "LOSS_REGISTRY",
    "METRIC_REGISTRY",
    "REGISTRIES",
]
