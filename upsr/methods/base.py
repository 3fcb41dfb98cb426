"""Method restores and states facts; Training is one phase of its training, with one or more players."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from upsr.accelerate import accelerated
from upsr.accelerate.twin import shallow_copy
from upsr.config.schema import CommonOptions, OptimizerOptions
from upsr.diffusion.sampling import Noise
from upsr.errors import UpsrError
from upsr.methods.graphs import Exported
from upsr.methods.knobs import Knob, TextKnob
from upsr.tiling.tiles import TilePlan

Batch = MutableMapping[str, Tensor]
"""Input of a training step, by name: ``lq`` (B, C, h, w) and ``gt`` (B, C, s*h, s*w) in [0, 1] of degraded pairs;
``iteration`` (B,), the number of finished iterations."""


@dataclass(frozen=True)
class Facts:
    """What callers of a method have to know.

    Attributes:
        scale: upscaling factor, which may be a fraction; :meth:`output_size` is the size that it gives.
        channels: image channels, 1 or 3.
        multiple: LR sides of :meth:`Method.restore` are multiples of it.
        state: channels of the diffusion's state, and HR pixels per side of one of its cells: (48, 4) for pixels unshuffled by 4,
            (4, 8) for a latent of a KL autoencoder; the noise has this shape. (0, 1) without noise.
        values_per_pixel: numbers held at once for each LR pixel while restoring, at most; decides how large tiles are.
        canvas: least side in HR pixels of the image that the diffusion works on, and a number that its sides are multiples of;
            both are multiples of a cell's side.
    """

    scale: float
    channels: int
    multiple: int = 1
    state: tuple[int, int] = (0, 1)
    values_per_pixel: int = 0
    canvas: tuple[int, int] = (1, 1)

    @property
    def draws(self) -> bool:
        """A restoration depends on its noise."""
        return self.state[0] > 0

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the restoration of an LR image: rounded, at least 1."""
        return max(round(self.scale * height), 1), max(round(self.scale * width), 1)

    def canvas_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in HR pixels of the image that the diffusion works on, of which the restoration is the top left."""
        least, multiple = self.canvas
        rows, columns = (max(-(-side // multiple) * multiple, least) for side in self.output_size(height, width))
        return rows, columns

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of one image's noise for LR sides that are multiples of ``multiple``."""
        channels, cell = self.state
        rows, columns = (side // cell for side in self.canvas_size(height, width))
        return channels, rows, columns

    def whole_scale(self, purpose: str) -> int:
        """The scale as an integer.

        Raises:
            UpsrError: it is a fraction, with which ``purpose`` does not go.
        """
        if self.scale != int(self.scale):
            raise UpsrError(f"scale is {self.scale:g}, but {purpose} needs a whole number")
        return int(self.scale)


@dataclass(frozen=True)
class Seen:
    """An intermediate result.

    Attributes:
        name: for captions: ``g(y)``, ``t=4``, ``uncertainty``.
        image: (B, 1 or C, H, W) in [0, 1], (H, W) the output's size.
        kind: a picture of the scene, or a map over it.
    """

    name: str
    image: Tensor
    kind: Literal["image", "map"] = "image"


Watch = Callable[[Seen], None]
"""Takes the intermediate results of a restoration, in their order."""


class Method(nn.Module, ABC):
    """Networks and what they do together to restore an image; knows neither losses nor optimisers.

    Attributes:
        Options: structure of the method's option files.
        facts: see :class:`Facts`.
        maps: names of the maps that :meth:`restore` shows.
        weight_keys: for each of :meth:`parts` that has weights of its own, the key in the options' ``path`` that names them.
        folder_keys: for each of :meth:`parts` that is read from a folder with its description, the option that names the folder.
        takes: weights that :meth:`assumed` knows, for messages.
    """

    Options: ClassVar[type[CommonOptions]] = CommonOptions
    facts: Facts
    maps: ClassVar[Sequence[str]] = ()
    weight_keys: ClassVar[Mapping[str, str]] = {}
    folder_keys: ClassVar[Mapping[str, str]] = {}
    takes: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def from_options(cls, opt: Any, *, training: bool = False) -> Self:
        """Build the networks and load the weights that the options name.

        Args:
            opt: checked options of the structure ``Options``.
            training: what is about to be trained may start from random weights.

        Raises:
            UpsrError: options do not fit each other, or weights are missing.
        """

    @classmethod
    def assumed(cls, path: Path, tensors: Sequence[str], beside: Mapping[str, Path]) -> dict[str, Any] | None:
        """Options of a published model, by the names of the tensors in its file, or by what a folder holds.

        Args:
            path: the weight file, or a folder that is neither a saved pipeline nor a run, such as one of diffusers.
            tensors: names of those in the file; empty for a folder.
            beside: weights of other parts that the user named, by the names of :meth:`parts`.

        Returns:
            Options, paths included; ``None`` if these are weights of no model of this method.

        Raises:
            UpsrError: they are, and weights of another part are needed beside them.
        """
        return None

    @classmethod
    def needed_weights(cls, opt: Any) -> Mapping[str, str]:
        """Those of ``weight_keys`` whose parts there are under checked options."""
        return cls.weight_keys

    def save_folder(self, key: str, folder: Path) -> None:
        """Write the folder that the option ``key`` of ``folder_keys`` names."""
        raise NotImplementedError(f"{type(self).__name__} reads {key} and does not write it")

    @abstractmethod
    def restore(self, lq: Tensor, noise: Noise, *, tiles: TilePlan | None = None, watch: Watch | None = None) -> Tensor:
        """Super-resolve.

        Args:
            lq: (B, C, h, w) in [0, 1], sides multiples of ``facts.multiple``.
            noise: gives the k-th standard normal tensor, (B, *facts.noise_shape(h, w)).
            tiles: bounds the memory of images larger than a tile; a method without use for it restores them whole.
            watch: see :data:`Watch`.

        Returns:
            (B, C, *facts.output_size(h, w)) in [0, 1], on the method's device or in a file of ``tiles.scratch``.
        """

    def parts(self) -> Mapping[str, nn.Module]:
        """The networks by the names they are saved, counted, hashed and exported under."""
        return dict(self.named_children())

    def replaced(self, name: str, network: nn.Module) -> Self:
        """The same method with another network in place of one of :meth:`parts`."""
        raise UpsrError(f"{type(self).__name__} takes no other network in the place of '{name}'")

    def for_inference(self, dtype: torch.dtype) -> Self:
        """The same method with networks in their faster forms, those that allow it computing in ``dtype``.

        Raises:
            UpsrError: the method computes in float32 only.
        """
        if dtype != torch.float32:
            raise UpsrError(f"dtype is {str(dtype).removeprefix('torch.')}; this method computes in float32")
        return self

    def exported(self) -> Exported | None:
        """Graphs of the networks for other runtimes; ``None`` for a method without export."""
        return None

    def knobs(self) -> Mapping[str, Knob | TextKnob]:
        """What :meth:`adjusted` takes, by name."""
        return {}

    def _sharing(self, **changes: Any) -> Self:
        """The same method but for some attributes, on the same networks, whose modes stay.

        The constructor and :meth:`train` walk through all modules, twice for each restoration: 8 of the 120 ms that a photo of
        64 x 64 took.
        """
        method = shallow_copy(self)
        for name, value in changes.items():
            setattr(method, name, value)
        return method

    def adjusted(self, **knobs: float | str | None) -> Self:
        """The same networks under other settings; a knob that is ``None`` stays as it is.

        Raises:
            UpsrError: there is no such knob, or a value is out of its range.
        """
        own = self.knobs()
        for name, value in knobs.items():
            if value is None:
                continue
            if name not in own:
                have = f"; it has {', '.join(own)}" if own else ""
                raise UpsrError(f"{name}: the method {type(self).__name__} has no such setting{have}")
            if (problem := own[name].problem(value)) is not None:
                raise UpsrError(f"{name} {problem}")
        given = {name: value for name, value in knobs.items() if value is not None}
        return self._adjusted(**given) if given else self

    def faithful(self) -> Self | None:
        """The same networks under settings with which nothing is invented, for what is outside of a mask.

        ``None`` for a method without such settings, or one that invents nothing anyway.
        """
        return None

    def _adjusted(self, **knobs: Any) -> Self:
        """:meth:`adjusted`, for values that are in their ranges."""
        raise NotImplementedError(f"{type(self).__name__} states knobs and does not take them")


@dataclass(frozen=True)
class Player:
    """One thing with an optimiser.

    Attributes:
        network: its parameters that require gradients are trained, averaged and saved, its buffers are saved with them; its
            other parameters are frozen and not saved.
        optim: rate and moments.
        averaged: validate and ship the average of the parameters over the iterations.
    """

    network: nn.Module
    optim: OptimizerOptions
    averaged: bool = True


class Feed(Protocol):
    """Makes batches, on the device, of the items that a training set reads."""

    def bind(self, dataset: Any, device: torch.device) -> None:
        """Tie the dataset's draws to the run.

        Raises:
            UpsrError: the set does not fit the training.
        """

    def batch(self, raw: Mapping[str, Any], iteration: int, slots: Sequence[int]) -> tuple[Batch, list[str]]:
        """A batch and the files its samples come from; a function of the arguments and :meth:`state_dict`.

        Args:
            raw: the items' tensors, stacked, on the device; ``key`` names the items.
            slots: the samples' places in the global batch.
        """

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """Content of a checkpoint, by slot; not changed by later batches, beside which it is written."""

    def load_state_dict(
        self, state: Mapping[int, Mapping[str, Any]], slots: Sequence[int], device: torch.device
    ) -> int:
        """Take over what a checkpoint has of ``slots``; returns the number of samples that do not fit and are left out."""


class StatelessFeed:
    """The part of a :class:`Feed` that keeps nothing between batches."""

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """See :meth:`Feed.state_dict`."""
        return {}

    def load_state_dict(
        self, state: Mapping[int, Mapping[str, Any]], slots: Sequence[int], device: torch.device
    ) -> int:
        """See :meth:`Feed.load_state_dict`."""
        return 0


class Training(nn.Module, ABC):
    """One phase of a method's training: one option file, one run.

    DistributedDataParallel wraps it as it is, once for each player.

    Attributes:
        method: what is trained; restores for validation.
        players: in the order of their updates.
    """

    method: Method
    players: Mapping[str, Player]

    @classmethod
    @abstractmethod
    def from_options(cls, opt: Any) -> Self:
        """The method with its weights, the losses and the players.

        Raises:
            UpsrError: options do not fit each other, or weights are missing.
        """

    @abstractmethod
    def forward(self, player: str, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The losses of one player for a batch.

        Args:
            player: a key of ``players``.
            batch: the same mapping for every player: tensors added to it, detached, reach the players after this one.
            generators: one for each sample; the only source of randomness. Every player draws on where the last one ended.

        Returns:
            Scalars by name, weighted; ``"total"`` is their sum and the one to differentiate. Phases with timesteps add
            ``"by_timestep"``, (2, T): the sum of an unweighted error over the samples at each timestep, and their number. A name
            that ends in ``_values`` is of finite numbers (N,), such as one of each sample, whose histogram is shown.
        """

    def feed(self, opt: CommonOptions) -> Feed | None:
        """The maker of its batches; ``None`` for degraded pairs."""
        return None

    def convolutional(self) -> Sequence[nn.Module]:
        """Modules that ``train.channels_last`` concerns."""
        return [player.network for player in self.players.values()]

    def refuse_crops(self, size: int, device: torch.device) -> None:
        """Raise UpsrError if the losses cannot be computed of ground truths of ``size`` x ``size``."""
        return


class Frozen(nn.Module):
    """A network that is never trained: no gradients, always in evaluation mode.

    Args:
        training_dtype: type it computes in while what surrounds it is in training mode; ``None`` is float32.
    """

    def __init__(self, network: nn.Module, training_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = accelerated(network.requires_grad_(False).eval())
        self.training_dtype = training_dtype
        self._dtype = training_dtype

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode; outside training it computes in float32."""
        self._dtype = self.training_dtype if mode else None
        return super().train(False)

    def forward(self, *inputs: Any) -> Any:
        """The network's output in float32, whatever autocast is on around it."""
        with (
            torch.inference_mode(),
            torch.autocast(inputs[0].device.type, self._dtype, enabled=self._dtype is not None),
        ):
            result = self.network(*inputs)
        return result.to(torch.float32, copy=True)  # autograd accepts no inference tensor
