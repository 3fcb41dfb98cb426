"""The sections of run.py and their cases."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from common import FULL_SIZE, training_options
from harness import Case
from limits import Traffic, traffic_of
from plain import plain_of, plain_restore
from textbook import textbook
from torch import Tensor, nn
from train_step import Ours, Plain

from upsr.accelerate.allocator import kept_buffers
from upsr.accelerate.compiled import Compiled
from upsr.archs.contracts import DenoisingNetwork, SRNetwork
from upsr.config import CommonOptions, load_options
from upsr.config.schema import Component, TileOptions
from upsr.methods import Method, build_method
from upsr.pipeline.memory import OVERLAP
from upsr.restoring.restore import restore
from upsr.rng import torch_generator
from upsr.tiling.windows import Canvas, tiles_of


@dataclass
class Setting:
    """The choices of the command line, and the networks, built at their first use.

    Attributes:
        compile: mode of ``torch.compile`` for the denoiser of ours; ``"none"`` leaves it as it is.
        channels_last: layout of the weights of ours, which a GPU's convolutions take over for the maps.
        option_file: describes the networks.
        tile: about the side of tiles in LR pixels.
        plain: what ours is compared with: the networks of ``upsr/archs`` (``"house"``), or the same with attention as the papers
            write it (``"textbook"``).
    """

    device: torch.device
    dtype: torch.dtype
    sizes: list[int]
    batches: list[int]
    compile: str
    channels_last: bool = True
    option_file: Path = FULL_SIZE
    tile: int = 256
    plain: str = "house"

    @cached_property
    def model(self) -> Method:
        """Ours, with random weights."""
        changes = ["path.pretrain_network_aux=null", "path.allow_random_weights=true"]
        model = build_method(load_options(self.option_file, changes))
        for network in model.parts().values():
            _stir(network)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(self.device, memory_format=layout).eval()

    @cached_property
    def working(self) -> Method:
        """Ours in the chosen type, compiled if that was asked for."""
        model = self.model.for_inference(self.dtype)
        if self.compile == "none":
            return model
        return model.replaced("denoiser", Compiled(model.parts()["denoiser"], mode=self.compile))

    @cached_property
    def unet(self) -> DenoisingNetwork:
        """The plain denoiser with the same weights."""
        return self._plain(self._options.network_g, "denoiser")

    @cached_property
    def g(self) -> SRNetwork:
        """The plain g with the same weights."""
        return self._plain(self._options.network_aux, "g")

    def _plain(self, component: Component, part: str) -> Any:
        network = plain_of(component, self.model.parts()[part])
        return textbook(network) if self.plain == "textbook" else network

    @cached_property
    def _options(self) -> CommonOptions:
        return load_options(self.option_file, ["path.allow_random_weights=true"])

    def random(self, *shape: int) -> Tensor:
        """Standard normal, the same for the same shape."""
        return torch.randn(shape, generator=torch_generator("benchmark", *shape)).to(self.device)

    def photos(self, batch: int, size: int) -> Tensor:
        """(batch, 3, size, size) in [0, 1]."""
        return torch.rand(batch, 3, size, size, generator=torch_generator("photo", batch, size)).to(self.device)

    def denoiser_inputs(self, batch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """State, timesteps and condition."""
        t = torch.full((batch,), 3, device=self.device)
        return self.random(batch, 48, size, size), t, self.random(batch, 96, size, size)

    def each(self) -> Iterator[tuple[int, int, str]]:
        """Batches and sizes, with their names."""
        for size in self.sizes:
            for batch in self.batches:
                yield batch, size, f"{batch} x {size} x {size}, {self.form}"

    @property
    def form(self) -> str:
        """Of ours, where it is not the usual one."""
        form = str(self.dtype).removeprefix("torch.")
        form += "" if self.channels_last else ", contiguous"
        return form if self.compile == "none" else f"{form}, compiled ({self.compile})"


def _stir(network: nn.Module) -> None:
    """No weight is zero, so that every part has a say in the result."""
    generator = torch_generator("stir")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def _denoiser(setting: Setting) -> Iterator[Case]:
    for batch, size, name in setting.each():
        inputs = setting.denoiser_inputs(batch, size)
        yield _network_case(f"denoiser, {name}", setting, setting.working.parts()["denoiser"], setting.unet, inputs)


def _g(setting: Setting) -> Iterator[Case]:
    for batch, size, name in setting.each():
        yield _network_case(
            f"g, {name}", setting, setting.model.parts()["g"], setting.g, (setting.photos(batch, size),)
        )


def _network_case(name: str, setting: Setting, ours: nn.Module, plain: nn.Module, inputs: tuple[Tensor, ...]) -> Case:
    return Case(
        name,
        _quiet(lambda: _kept(ours, inputs)),
        _quiet(lambda: plain(*inputs)),
        setting.dtype,
        traffic_of(plain, *inputs),
    )


def _kept(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """As within a restoration."""
    with kept_buffers(inputs[0][:, 0].numel()):
        return network(*inputs)


def _restore(setting: Setting) -> Iterator[Case]:
    for batch, size, name in setting.each():
        lq, noise = setting.photos(batch, size), setting.random(batch, 48, size, size)
        yield Case(
            f"{len(setting.model.sampling.timesteps)} steps with g, {name}",
            _quiet(lambda lq=lq, noise=noise: setting.working.restore(lq, lambda k: noise)),
            _quiet(lambda lq=lq, noise=noise: plain_restore(setting.model, setting.unet, setting.g, lq, noise)),
            setting.dtype,
            _traffic_of_restoring(setting, lq),
        )


def _tiled(setting: Setting) -> Iterator[Case]:
    for batch, size, name in setting.each():
        lq, noise = setting.photos(batch, size), setting.random(batch, 48, size, size)
        names = [str(n) for n in range(batch)]
        tile = TileOptions(size=setting.tile, overlap=min(OVERLAP, setting.tile // 2), blend="step")
        yield Case(
            f"{len(setting.model.sampling.timesteps)} steps with g, tiles of about {setting.tile}, {name}",
            lambda lq=lq, names=names, tile=tile: restore(setting.working, lq, seed=0, names=names, tile=tile),
            _quiet(lambda lq=lq, noise=noise, tile=tile: _in_plain_tiles(setting, lq, noise, tile)),
            setting.dtype,
            same=False,  # ours meet after every step
        )


def _in_plain_tiles(setting: Setting, lq: Tensor, noise: Tensor, tiles: TileOptions) -> Tensor:
    """Each tile for itself, and the results averaged, as the released code does."""
    canvas = Canvas(lq, setting.model.facts.scale)
    for tile in tiles_of(*lq.shape[-2:], tiles.size, tiles.overlap):
        here = tile.place()
        canvas.add(plain_restore(setting.model, setting.unet, setting.g, lq[here], noise[here]), tile)
    return canvas.result()


def _traffic_of_restoring(setting: Setting, lq: Tensor) -> Traffic:
    inputs = setting.denoiser_inputs(len(lq), lq.shape[-1])
    return traffic_of(setting.g, lq) + traffic_of(setting.unet, *inputs) * len(setting.model.sampling.timesteps)


def _data(setting: Setting) -> Iterator[Case]:
    for batch, ours, plain in _steps(setting):
        yield Case(f"reading a batch of {batch}, one process", ours.read, plain.read)


def _degradation(setting: Setting) -> Iterator[Case]:
    for batch, ours, plain in _steps(setting):
        pair = (step.degradation_of(step.copied(step.read())) for step in (ours, plain))
        yield Case(f"degradation of a batch of {batch}", *pair)


def _train(setting: Setting) -> Iterator[Case]:
    for batch, ours, plain in _steps(setting):
        name = f"training step at batch {batch}, {str(setting.dtype).removeprefix('torch.')}"
        yield Case(name, ours.whole(), plain.whole(), setting.dtype)


def _steps(setting: Setting) -> Iterator[tuple[int, Ours, Plain]]:
    amp = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[setting.dtype]
    for batch in setting.batches:
        with tempfile.TemporaryDirectory() as name:
            changes = [f"datasets.train.batch_size_per_gpu={batch}", f"train.amp={amp}"]
            opt = training_options(Path(name), setting.option_file, changes, lpips="vgg")
            yield (
                batch,
                Ours(opt, Path(name) / "ours", setting.device),
                Plain(copy.deepcopy(opt), Path(name) / "plain", setting.device),
            )


def _quiet(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Without anything kept for gradients."""
    return torch.inference_mode()(run)


SECTIONS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "denoiser": _denoiser,
    "g": _g,
    "restore": _restore,
    "tiled": _tiled,
    "data": _data,
    "degradation": _degradation,
    "train": _train,
}
