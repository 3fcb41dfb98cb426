"""Released checkpoints of StableSR: which file is which, and what is in one, of which nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from upsr.archs.weights import read_weight_file
from upsr.errors import UpsrError
from upsr.patience import said_if_slow
from upsr.provenance import file_digest


@dataclass(frozen=True)
class Variant:
    """Settings that belong to a checkpoint of stage one and are not in it.

    Attributes:
        prediction: of the U-Net, as diffusers names it.
        sample_size: side of the latents that the U-Net was trained on, in cells.
        steps: network calls.
    """

    prediction: str = "epsilon"
    sample_size: int = 64
    steps: int = 200


VARIANTS = {"512": Variant(), "768v": Variant("v_prediction", 96), "turbo": Variant(steps=4)}

CFW = "cfw"
"""The name among :data:`RELEASED` of what is of stage two."""

RELEASED = {
    "stablesr_000117.ckpt": ("512", "b8862bf3fd11c5b8fe82fb8a4618a1c74a29e0301a190bd6c2e84d68986ef9cb"),
    "stablesr_768v_000139.ckpt": ("768v", "d5f83b544035b4bf24ab1d7aa86e0f83328e9ce121efb2c850f833178be3d10b"),
    "stablesr_turbo.ckpt": ("turbo", "3615aa00dcab2868042dcd1bba4979edbb6051e6e49c147cda6a2d550fb62c58"),
    "vqgan_cfw_00011.ckpt": (CFW, "5b20ed9a80e9bdbf9e76ff1642a6a5428ca3427b08b779248a88bfbba2e74e8e"),
}
"""By file name: variant, or :data:`CFW`, and sha256."""

_LIGHTNING = [
    f"{package}.callbacks.{name}"
    for package in ("pytorch_lightning", "lightning.pytorch")
    for name in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
]
_NUMPY = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"]


def variant_of(path: Path) -> str | None:
    """The variant of a released file, or :data:`CFW`, by its content; ``None`` for another file.

    Raises:
        UpsrError: there is no such file, or it has the name of a released one and another content.
    """
    if not path.is_file():
        raise UpsrError(f"{path}: no such file")
    with said_if_slow(f"{path.name}: computing its sha256"):
        digest = file_digest(path)
    for variant, known in RELEASED.values():
        if digest == known:
            return variant
    if path.name in RELEASED:
        raise UpsrError(
            f"{path}: not the released file of this name (sha256 {digest[:16]}..., released {RELEASED[path.name][1][:16]}...): "
            "fetch it again; for a checkpoint of your own say --variant or --opt"
        )
    return None


class Checkpoint(Mapping[str, Tensor]):
    """The state dict in a file of Lightning, whose tensors stay in the file until they are used.

    Args:
        path: torch file with the state dict under ``state_dict``, or nothing but it; what else Lightning writes is not read.

    Attributes:
        taken: names of the tensors that were asked for.

    Raises:
        UpsrError: the file is damaged, or holds objects other than tensors, plain values and Lightning's callbacks.
    """

    def __init__(self, path: Path) -> None:
        content = read_weight_file(path, mapped=True, blank=[*_LIGHTNING, *_NUMPY])
        held = content.get("state_dict", content)
        self.path, self.taken = path, set[str]()
        self._weights = {k: v for k, v in held.items() if isinstance(v, Tensor)} if isinstance(held, Mapping) else {}
        if not self._weights:
            raise UpsrError(f"{path}: no state dict, neither under 'state_dict' nor by itself")

    def __getitem__(self, name: str) -> Tensor:
        value = self._weights[name]
        self.taken.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def has(self, prefix: str) -> bool:
        """There are tensors whose names begin so."""
        return any(name.startswith(prefix) for name in self)

    def left_out(self) -> str:
        """What was not asked for, by the beginning of the names; empty for nothing."""
        counts = Counter(name.partition(".")[0] for name in self if name not in self.taken)
        return ", ".join(f"{start} ({count})" if count > 1 else start for start, count in counts.items())
