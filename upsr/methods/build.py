"""Networks, losses and models from options."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import upsr.archs
import upsr.codecs
import upsr.losses  # noqa: F401  (they register networks and losses)
from upsr.archs.weights import load_network_weights
from upsr.compat import ARCH_REGISTRY, LOSS_REGISTRY
from upsr.config.components import build
from upsr.config.methods import method_of
from upsr.config.schema import CommonOptions, Component
from upsr.errors import MissingFileError, UpsrError
from upsr.methods.base import Method, Training
from upsr.methods.options import NetworkOptions
from upsr.rng import derive_seed, numpy_generator, torch_generator
from upsr.weights import find_weights
from upsr.weights.catalogue import fetch_hint

logger = logging.getLogger(__name__)

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(name: str) -> torch.dtype | None:
    """The type that an option means; ``None`` for float32, which needs no autocast."""
    return _AUTOCAST[name]


def build_method(opt: CommonOptions) -> Method:
    """The method an option file names, with its weights, for restoring."""
    with _seeded(opt), _hinting():
        method: Method = method_of(opt).method.from_options(opt)
    # Maps have channels last while restoring; weights that do not would be converted at every call.
    return method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_training(opt: CommonOptions) -> Training:
    """The phase of training an option file names, with its method.

    Raises:
        UpsrError: the method has none.
    """
    found = method_of(opt)
    if found.training is None:
        raise UpsrError(f"method: {found.name} has no training")
    with _seeded(opt), _hinting():
        training: Training = found.training.from_options(opt)
        return training


@contextmanager
def _seeded(opt: CommonOptions) -> Iterator[None]:
    """Weights that are not loaded come from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(opt.manual_seed, "init"))
        yield


@contextmanager
def _hinting() -> Iterator[None]:
    """The error about a missing file also names the command that fetches it."""
    try:
        yield
    except MissingFileError as error:
        raise UpsrError(f"{error}{fetch_hint([error.path])}") from None


def train_options(opt: CommonOptions) -> Any:
    """The section ``train``, in the method's own structure.

    Raises:
        UpsrError: it is missing.
    """
    if opt.train is None:
        raise UpsrError("train: this section is needed for training")
    return opt.train


def build_network(
    component: Component, key: str, *, scale: int | None = None, contract: type[nn.Module] = nn.Module
) -> Any:
    """A registered network; refuses one of another kind, or whose scale is not the run's.

    Args:
        key: the option key, for messages.
        scale: of the run; ``None`` for a network that has none.
        contract: what it must be, of :mod:`upsr.archs.contracts`.
    """
    network = build(ARCH_REGISTRY, component)
    if not isinstance(network, contract):
        able = sorted(name for name, known in ARCH_REGISTRY.items() if issubclass(known, contract))
        raise UpsrError(f"{key}.type: {component.type} is no {contract.__name__}; those that are: {', '.join(able)}")
    if scale is not None and network.scale != scale:
        raise UpsrError(f"{key}: the network is x{network.scale}, but scale is {scale}; make them agree")
    return network


def load_weights(
    network: nn.Module,
    opt: CommonOptions,
    section: str,
    part: str,
    *,
    optional: bool = False,
    beginning: str = "random weights",
) -> None:
    """Fill a network from the file that the options name, or say what it begins with.

    The file is ``path.pretrain_SECTION``; ``path.param_key_`` and ``path.strict_load_`` with the section's ending say how it is
    read. A network that carries its weights needs none.

    Args:
        section: of the options that describes the network: ``network_g``.
        part: name of the network among the method's parts, for weights that ship with the package.
        optional: the network is about to be trained; ``path.resume_state`` will fill it, if it is set.
        beginning: what it holds without a file, for the message.

    Raises:
        UpsrError: no file is named and none may be missing, or it does not fit.
    """
    if getattr(network, "carries_weights", False):
        return
    key, ending = f"pretrain_{section}", section.removeprefix("network_")
    name = getattr(opt.path, key)
    if name is not None:
        file = find_weights(name, part)
        if not file.is_file():
            raise MissingFileError(f"{file}: no such weight file (path.{key})", file)
        used = load_network_weights(
            network,
            file,
            param_key=getattr(opt.path, f"param_key_{ending}", None),
            strict=getattr(opt.path, f"strict_load_{ending}", True),
        )
        logger.info("path.%s: loaded '%s' of %s", key, used, name)
    elif optional and opt.path.resume_state is not None:
        logger.info("path.%s is not set: %s has the weights of the training state", key, type(network).__name__)
    elif optional or opt.path.allow_random_weights:
        logger.warning("path.%s is not set: %s begins with %s", key, type(network).__name__, beginning)
    else:
        raise UpsrError(
            f"path.{key}: weights are needed here; give a file (docs/methods says where there are any, or how to train them), "
            "or set path.allow_random_weights: true for a dry run"
        )


class Losses(nn.Module):
    """The pixel loss and, where asked for, the perceptual loss and that on a pixel shuffle's pattern.

    Args:
        perceptual_shift: the perceptual loss sees each sample cropped from a row and a column drawn from [0, shift), so that
            no phase of its backbone's strides is preferred; 1 for the whole image.
    """

    def __init__(
        self,
        pixel: Component,
        perceptual: Component | None,
        perceptual_shift: int = 1,
        grid: Component | None = None,
    ) -> None:
        super().__init__()
        self.perceptual_shift = perceptual_shift
        self.pixel = build(LOSS_REGISTRY, pixel)
        self.perceptual = build(LOSS_REGISTRY, perceptual) if perceptual else None
        self.grid = build(LOSS_REGISTRY, grid) if grid else None
        if perceptual is None:
            logger.warning("train.perceptual_opt is not set: training without a perceptual loss")

    def forward(self, prediction: Tensor, target: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Weighted losses by name and their ``total``, for (B, C, H, W) images in [-1, 1].

        Args:
            generators: one for each sample.
        """
        losses = {"l_pix": self.pixel(prediction, target)}
        if self.grid is not None:
            losses["l_grid"] = self.grid(prediction, target)
        if self.perceptual is not None:
            if self.perceptual_shift > 1:
                prediction, target = _shifted(self.perceptual_shift, generators, prediction, target)
            losses["l_percep"] = self.perceptual(prediction, target)
        return {**losses, "total": sum(losses.values())}

    def refuse_crops(self, channels: int, size: int, device: torch.device) -> None:
        """Raise if there is no loss of (B, channels, size, size) images: found out on a copy, which may count its calls.

        Raises:
            UpsrError: crops are too small or no multiple of what a loss divides them by, or a loss gives no single number.
        """
        image = torch.zeros(1, channels, size, size, device=device)
        generators = [torch_generator(0, device=device)]
        problem = loss_problem(lambda: copy.deepcopy(self)(image, image, generators)["total"])
        if problem is not None:
            raise UpsrError(
                f"train: pixel_opt, perceptual_opt, perceptual_shift, grid_opt cannot be computed of crops of {size}: {problem}"
            )


def loss_problem(compute: Callable[[], Tensor]) -> str | None:
    """Why a loss cannot be computed or is no single number; ``None`` where it is one."""
    try:
        with torch.no_grad():
            total = compute()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return " ".join(str(error).split())[:200]
    return None if total.dim() == 0 else f"they give {tuple(total.shape)} numbers"


def _shifted(shift: int, generators: Sequence[torch.Generator], *images: Tensor) -> list[Tensor]:
    """Batches of which each sample begins at a row and a column of its own, (B, C, H - shift + 1, W - shift + 1).

    The places come from the generators' seeds, on the host: drawn on a GPU, they would make it wait.
    """
    starts = [numpy_generator(g.initial_seed(), "shift").integers(shift, size=2) for g in generators]
    height, width = (side - shift + 1 for side in images[0].shape[-2:])
    return [
        torch.stack(
            [
                image[:, top : top + height, left : left + width]
                for image, (top, left) in zip(batch, starts, strict=True)
            ]
        )
        for batch in images
    ]


def build_losses(opt: NetworkOptions) -> Losses:
    """The losses of ``train``."""
    train = train_options(opt)
    return Losses(train.pixel_opt, train.perceptual_opt, train.perceptual_shift, train.grid_opt)
