"""The registries of components, and the shim that makes basicsr 1.4.2 importable.

basicsr imports ``torchvision.transforms.functional_tensor``, which torchvision removed in 0.17. A module that imports
basicsr imports this one first. basicsr and torchvision take two seconds to import, so both wait until they are used.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def _functional_tensor() -> types.ModuleType:
    module = types.ModuleType("torchvision.transforms.functional_tensor")

    def of_torchvision(name: str) -> Any:
        if name != "rgb_to_grayscale":  # all that basicsr takes from it
            raise AttributeError(name)
        from torchvision.transforms.functional import rgb_to_grayscale

        return rgb_to_grayscale

    module.__getattr__ = of_torchvision  # type: ignore[method-assign]
    return module


sys.modules.setdefault("torchvision.transforms.functional_tensor", _functional_tensor())


class Registry(Mapping[str, Any]):
    """Classes by their names: those registered here, then those in basicsr's registry.

    Args:
        name: which :attr:`upsr.config.schema.Component.registry` gives.
        basicsr: name of its registry in ``basicsr.utils.registry``, which is imported when a name is not found here.
    """

    def __init__(self, name: str, basicsr: str | None = None) -> None:
        self.name, self._basicsr = name, basicsr
        self._own: dict[str, Any] = {}

    def register(self) -> Callable[[C], C]:
        """Decorator that adds a class under its name."""

        def add(found: C) -> C:
            if found.__name__ in self._own:
                raise ValueError(f"{self.name} {found.__name__} is registered already")
            self._own[found.__name__] = found
            return found

        return add

    def __getitem__(self, name: str) -> Any:
        return self._own[name] if name in self._own else self._of_basicsr()[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._own, **self._of_basicsr()})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _of_basicsr(self) -> dict[str, Any]:
        if self._basicsr is None:
            return {}
        from basicsr.utils import registry

        found = dict(iter(getattr(registry, self._basicsr)))
        # basicsr registers what Real-ESRGAN names alike under a longer name, and finds it under both.
        return {name.removesuffix("_basicsr"): known for name, known in found.items()} | found


ARCH_REGISTRY = Registry("arch", "ARCH_REGISTRY")
DATASET_REGISTRY = Registry("dataset", "DATASET_REGISTRY")
LOSS_REGISTRY = Registry("loss", "LOSS_REGISTRY")
METRIC_REGISTRY = Registry("metric", "METRIC_REGISTRY")

ENTRY_REGISTRY = Registry("entry")
"""Ways to get a restored image that evaluation can measure."""

BENCHMARK_PREPARER_REGISTRY = Registry("benchmark preparer")
"""Ways to make a benchmark's folder from a download."""

REGISTRIES = {
    registry.name: registry
    for registry in (
        ARCH_REGISTRY,
        BENCHMARK_PREPARER_REGISTRY,
        DATASET_REGISTRY,
        ENTRY_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
    )
}
"""By their names."""
