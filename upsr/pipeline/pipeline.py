"""Photos in, photos four times as large out: the model for people who use it."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from upsr.accelerate.compiled import MODES, Compiled
from upsr.atomic import writable_folder
from upsr.config.schema import TileOptions
from upsr.data.photo_reader import frame_of_pillow, read_photo
from upsr.data.samples import UnclearSamplesError
from upsr.errors import UnsoundResultError, UpsrError
from upsr.methods.base import Knob, Method, Seen, Watch
from upsr.photos.photo import Frame, Photo, alpha_of, to_colour, to_frame
from upsr.pipeline.files import load_model, save_model
from upsr.pipeline.hardware import dtype_for, usable_device
from upsr.pipeline.memory import OVERLAP, SCRATCH_ROOM, choose_tile, free_memory
from upsr.provenance import weights_digest
from upsr.restoring.colour import COLOUR_FIXES
from upsr.restoring.restore import restore_planned
from upsr.tiling.peers import Peers
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import Progress, TilePlan

ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor | Photo
OutputType = Literal["pil", "np", "pt"]

MAX_PIXELS = 100_000_000
_LEAST_TILE = 8
_COMPILED = "denoiser"
"""The part that is called once for each step."""
_SHOWS_SOMETHING, _SHOWS_NOTHING = 32 / 255, 1 / 255
"""Differences between the largest and the smallest value of a photo, and of its result."""


@dataclass(frozen=True)
class Settings:
    """How photos are upscaled.

    Attributes:
        seed: of the noise; a photo's noise is a function of the seed and its pixels. Without effect on a method without noise.
        outscale: size of the result over that of the photo; ``None`` for the method's scale.
        size: (width, height) of the result instead, of which one may be ``None`` to keep the proportions.
        tile: side of tiles in LR pixels; "auto" for what fits the free memory; ``None`` for no tiles.
        tiles_at_once: tiles in one network call on a GPU; a CPU takes them one by one, so its results never depend on it.
        colour_fix: "none", "adain" or "wavelet", see :mod:`upsr.restoring.colour`.
        knobs: settings of the method by name, see :meth:`upsr.methods.base.Method.knobs`; ``None`` for its own value.
    """

    seed: int = 0
    outscale: float | None = None
    size: tuple[int | None, int | None] | None = None
    tile: int | Literal["auto"] | None = "auto"
    tiles_at_once: int = 1
    colour_fix: str = "none"
    knobs: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """Settings from keywords of which some may be knobs: ``Settings.of(seed=1, steps=2)``."""
        own: dict[str, Any] = {field.name: given.pop(field.name) for field in fields(cls) if field.name in given}
        return cls(**{"knobs": given, **own})


@dataclass(frozen=True)
class UPSROutput:
    """What a pipeline gives, one entry for each image; animations keep their frames in lists.

    Attributes:
        images: the results.
        maps: maps over the image by name, grey, at the method's scale: UPSR's ``uncertainty`` (psi over psi_max, 1 and more is
            white) and ``weight`` of the noise. ``output.uncertainty`` is the list of one map; ``None`` where there is none.
        intermediates: the pictures on the way by name, at the method's scale: g(y), x_T and the estimate of each step.
    """

    images: list[Any]
    maps: list[dict[str, Any]] | None = None
    intermediates: list[dict[str, Any]] | None = None

    def __getattr__(self, name: str) -> list[Any] | None:
        if name.startswith("__"):
            raise AttributeError(name)
        return [found[name] for found in self.maps] if self.maps and name in self.maps[0] else None


class UPSRPipeline:
    """A method with everything around it.

    >>> pipe = UPSRPipeline.from_pretrained("tiny")            # doctest: +SKIP
    >>> pipe("photo.jpg", seed=1).images[0].save("large.png")  # doctest: +SKIP

    Args:
        method: restores images.
        config: describes the method, as in ``config.json``.
        device, dtype: where, and in what type the method's networks compute.
        compile: ``torch.compile`` mode of the method's ``denoiser``, or "none".

    Raises:
        UpsrError: as :meth:`from_pretrained`.
    """

    def __init__(
        self,
        method: Method,
        config: dict[str, Any],
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        compile: str = "none",
    ) -> None:
        if compile not in ("none", *MODES):
            raise UpsrError(f"compile is '{compile}'; there are none, {', '.join(MODES)}")
        if compile != "none" and _COMPILED not in method.parts():
            raise UpsrError(f"compile: is for a part '{_COMPILED}', and this method has none")
        self.config = config
        self.compile = compile
        self.method = method
        self.to(device, dtype)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "tiny",
        *,
        g: str | Path | None = None,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        compile: str = "none",
        **hub: Any,
    ) -> Self:
        """A pipeline from wherever a model may be.

        Args:
            source: shipped weights by name (``"tiny"``); a folder that :meth:`save_pretrained` wrote, or of a training run; an
                option file; a ``user/name`` of the Hugging Face Hub; or a weight file: of a network that spandrel knows, of a
                training run (in its folder), the authors' g, or their denoiser (``upsr.pth``), which needs ``g``.
            g: weights of g, beside a file of the denoiser.
            device: "auto" (CUDA where there is one, else the CPU), or any torch device.
            dtype: what the denoiser computes in: "auto" (the fastest that differs by less than a grey level), "float32",
                "bfloat16", "float16"; or what it keeps its weights in, to compute in float32: "int8", "float8".
            compile: "default", "reduce-overhead" or "max-autotune" of ``torch.compile`` for the denoiser; starting takes up to
                minutes for each of the first sizes (see :func:`upsr.accelerate.compiled.Compiled`).
            hub: for ``huggingface_hub.snapshot_download``: revision, token, cache_dir, local_files_only.

        Raises:
            UpsrError: there is no such model, its files do not fit, or the device is not there.
        """
        device = usable_device(device)
        dtype_for(dtype, device)  # a wrong one is told before the weights are read
        method, config = load_model(source, g, hub=hub)
        return cls(method, config, device, dtype, compile)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and a safetensors file for each network, such as ``denoiser.safetensors``."""
        save_model(self.method, self.config, writable_folder(folder))

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes to a repository of the Hugging Face Hub; its address.

        Raises:
            UpsrError: the upload failed.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
            except Exception as error:  # what is wrong with a network has many names
                raise UpsrError(f"{repo_id}: not uploaded ({' '.join(str(error).split())[:200]})") from None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """Move to a device, or compute in another type."""
        if device is not None:
            self.device = usable_device(device)
            self.method.to(self.device)
        if dtype is not None:
            self.dtype = dtype_for(dtype, self.device)
        self._working = self._prepared(automatic=dtype == "auto")
        return self

    def _prepared(self, automatic: bool) -> Method:
        """The method as it restores.

        Args:
            automatic: float32 where the method takes no other type.
        """
        try:
            working = self.method.for_inference(self.dtype)
        except UpsrError:
            if not automatic:
                raise
            self.dtype = torch.float32
            working = self.method.for_inference(self.dtype)
        if self.compile != "none":
            part: Any = working.parts()[_COMPILED]
            working = working.replaced(_COMPILED, Compiled(part, mode=self.compile))
        return working

    def __repr__(self) -> str:
        networks = "".join(
            f", {name} {type(network).__name__} ({sum(p.numel() for p in network.parameters()) / 1e6:.1f} M)"
            for name, network in self.method.parts().items()
        )
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({type(self.method).__name__} x{self.scale}{networks}, {dtype} on {self.device})"

    def digest(self) -> dict[str, str]:
        """sha256 of the weights of the method's networks, by name."""
        return {name: weights_digest(network) for name, network in self.method.parts().items()}

    @property
    def scale(self) -> int:
        """How much larger the method makes a photo."""
        return self.method.facts.scale

    @property
    def draws(self) -> bool:
        """Results depend on the seed."""
        return self.method.facts.draws

    def knobs(self) -> Mapping[str, Knob]:
        """The method's settings, by name."""
        return self.method.knobs()

    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        output_type: OutputType = "pil",
        return_intermediates: bool = False,
        progress: Progress | None = None,
        **settings: Any,
    ) -> UPSROutput:
        """Upscale images.

        Args:
            image: one or a list: a path; a PIL image; (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 or uint16, or float
                in [0, 1]; a torch (C, H, W) or (B, C, H, W) tensor in [0, 1].
            output_type: "pil"; "np", (H, W, C) float32 in [0, 1]; "pt", (C, H, W) in [0, 1].
            return_intermediates: also give the maps and the pictures on the way.
            progress: called with (done, total) after each part of an image; what it raises ends the work.
            settings: the fields of :class:`Settings` (seed, outscale, size, tile, ...), and the method's knobs (UPSR: steps,
                fidelity, adaptive).

        Raises:
            UpsrError: an image cannot be read, or a setting is out of its range.
        """
        chosen = Settings.of(**settings)
        convert = _OUTPUTS[output_type] if output_type in _OUTPUTS else _refuse_output(output_type)
        images: list[Any] = []
        shown: dict[str, list[dict[str, Any]]] = {"map": [], "image": []}
        for item in _items(image):
            seen: list[Seen] = []
            watch = seen.append if return_intermediates else None
            large = self.upscale(_photo_of(item), chosen, progress=progress, watch=watch)
            frames = [convert(frame) for frame in large.frames]
            images.append(frames if len(frames) > 1 else frames[0])
            for kind, found in shown.items():
                found.append({item.name: convert(shown_frame(item)) for item in seen if item.kind == kind})
        if not return_intermediates:
            return UPSROutput(images)
        return UPSROutput(images, maps=shown["map"], intermediates=shown["image"])

    def upscale(
        self,
        photo: Photo,
        settings: Settings = Settings(),
        *,
        progress: Progress | None = None,
        watch: Watch | None = None,
        peers: Peers | None = None,
    ) -> Photo:
        """Upscale a photo; profile, EXIF and timing are kept, alpha is upscaled apart.

        All frames of an animation have the noise of the first, so that what stands still does not flicker.

        Args:
            progress: as in calling the pipeline, over all frames.
            watch: sees the intermediate results of the first frame.
            peers: processes that share the tiles; all of them call this with the same photo and get the same result.
        """
        settings = self.settled(settings)
        method = self._working.adjusted(**settings.knobs)
        first = photo.frames[0]
        size = self.target_size(first.shape[:2], settings)
        tile = self._tile(settings)
        identity = hashlib.sha256(repr(first.shape).encode() + first.tobytes()).hexdigest()

        def frame_progress(index: int) -> Progress | None:
            if progress is None:
                return None
            return lambda done, total: progress(index * total + done, len(photo.frames) * total)

        frames = []
        for index, frame in enumerate(photo.frames):
            scratch = Scratch(self.device, self._scratch_room())
            plan = TilePlan(tile, scratch, self._tiles_at_once(settings), frame_progress(index), peers)
            lq = to_colour(frame)[None].to(self.device)
            # A network for grey images takes the three colours as a batch.
            batch = lq.unflatten(1, (-1, method.facts.channels))[0]
            names = [identity] * len(batch)
            show = None if index else watch
            image = restore_planned(method, batch, plan, seed=settings.seed, names=names, watch=show)
            image = image.flatten(0, 1)[None]
            image = COLOUR_FIXES[settings.colour_fix](image, lq, scratch)
            _check_sound(image, lq)
            frames.append(to_frame(resized(image, size)[0], _resized_alpha(frame, size), frame))
        return replace(photo, frames=tuple(frames))

    def settled(self, settings: Settings, processes: int = 1) -> Settings:
        """The settings with a tile that the free memory holds in place of "auto".

        Args:
            processes: that share this machine's memory.

        Raises:
            UpsrError: a setting is out of its range.
        """
        self.method.adjusted(**settings.knobs)
        if settings.colour_fix not in COLOUR_FIXES:
            raise UpsrError(f"colour_fix is '{settings.colour_fix}'; there are {', '.join(COLOUR_FIXES)}")
        self.target_size((1, 1), settings)
        self._tiles_at_once(settings)
        if settings.tile == "auto":
            return replace(settings, tile=choose_tile(self.method, self.device, processes))
        least = max(self.method.facts.multiple, _LEAST_TILE)
        if settings.tile is not None and settings.tile < least:
            raise UpsrError(
                f"tile is {settings.tile}; give at least {least} LR pixels: multiples of {self.method.facts.multiple} are used"
            )
        return settings

    def target_size(self, shape: Sequence[int], settings: Settings) -> tuple[int, int]:
        """(height, width) of the result of a (height, width) photo."""
        height, width = shape
        if settings.size is not None:
            wide, high = settings.size
            if not (wide or high) or any(side is not None and side < 1 for side in (wide, high)):
                raise UpsrError(f"size is {settings.size}; give (width, height) in pixels, of which one may be None")
            if wide is None or high is None:
                factor = wide / width if wide is not None else high / height  # type: ignore[operator]
                return max(round(height * factor), 1), max(round(width * factor), 1)
            return high, wide
        factor = self.scale if settings.outscale is None else settings.outscale
        if not 0 < factor <= 64:
            raise UpsrError(f"outscale is {factor:g}; give a factor above 0 and up to 64")
        return max(round(height * factor), 1), max(round(width * factor), 1)

    def _tile(self, settings: Settings) -> TileOptions | None:
        if settings.tile is None:
            return None
        size = int(settings.tile)
        return TileOptions(size=size, overlap=min(OVERLAP, size // 2), blend="step")

    def _tiles_at_once(self, settings: Settings) -> int:
        if settings.tiles_at_once < 1:
            raise UpsrError(f"tiles_at_once is {settings.tiles_at_once}; give at least 1")
        # On a CPU products of matrices of another size are summed in another order, and nothing is gained.
        return 1 if self.device.type == "cpu" else settings.tiles_at_once

    def _scratch_room(self) -> int:
        return SCRATCH_ROOM if self.device.type == "cpu" else free_memory(self.device) // 4


def _check_sound(image: Tensor, lq: Tensor) -> None:
    """Refuse a result that is not finite, or of one value and made of a photo with more: the weights are wrong, or their type."""
    shown = float(torch.sub(*image.aminmax()))  # NaN where any value is
    if math.isnan(shown):
        raise UnsoundResultError("the result is not finite; give other weights, or compute in float32")
    if float(lq.max() - lq.min()) >= _SHOWS_SOMETHING and abs(shown) < _SHOWS_NOTHING:
        raise UnsoundResultError("the result would be of one colour, which the photo is not; give other weights")


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) in [0, 1] at another size (height, width), bicubic with antialiasing."""
    if image.shape[-2:] == size:
        return image
    planes = [
        F.interpolate(image[:, c : c + 1], size=size, mode="bicubic", antialias=True, align_corners=False)
        for c in range(image.shape[1])
    ]
    return torch.cat(planes, dim=1).clamp_(0, 1)


def _resized_alpha(frame: Frame, size: tuple[int, int]) -> Tensor | None:
    alpha = alpha_of(frame)
    return None if alpha is None else resized(alpha[None], size)[0]


def shown_frame(seen: Seen) -> Frame:
    """An intermediate result, (1, C, H, W), as 8-bit pixels; maps are grey, by the mean of their channels."""
    image, channels = seen.image[0], 3
    if seen.kind == "map":
        image, channels = image.mean(dim=0, keepdim=True), 1
    return to_frame(image.expand(3, -1, -1), None, np.zeros((1, 1, channels), np.uint8))


def _items(image: ImageLike | Sequence[ImageLike]) -> Iterable[ImageLike]:
    if isinstance(image, Tensor) and image.dim() == 4:
        return list(image)
    return image if isinstance(image, (list, tuple)) else [image]  # type: ignore[list-item]


def _photo_of(image: ImageLike) -> Photo:
    """The photo that a path, a PIL image, an array or a tensor is."""
    if isinstance(image, (str, Path)):
        return read_photo(Path(image), str(image), max_pixels=MAX_PIXELS)
    if isinstance(image, Image.Image):
        try:
            return Photo((frame_of_pillow(image),), image.format or "PNG")
        except UnclearSamplesError as error:
            raise UpsrError(f"an image has {error}; give 8 or 16 bits, or floats in [0, 1]") from None
    if isinstance(image, Photo):
        return image
    if isinstance(image, Tensor):
        image = image.detach().float().cpu().permute(1, 2, 0).numpy() if image.dim() == 3 else image.numpy()
    if not isinstance(image, np.ndarray):
        raise UpsrError(f"an image is a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    return Photo((_of_array(image),), "PNG")


def _of_array(pixels: NDArray[Any]) -> Frame:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or not 1 <= pixels.shape[-1] <= 4 or 0 in pixels.shape:
        raise UpsrError(
            f"an image has the shape (H, W, 1 to 4) as an array or (1 to 4, H, W) as a tensor, not {pixels.shape}"
        )
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.dtype.kind != "f" or not np.isfinite(pixels).all() or pixels.min() < -0.01 or pixels.max() > 1.01:
        raise UpsrError(f"an image of {pixels.dtype} is in [0, 1] and finite, or give uint8 or uint16")
    # 16 bits are finer than any result; every entry of a photo is then of one kind.
    return np.rint(pixels.clip(0, 1) * 65535).astype(np.uint16)


def _to_pil(frame: Frame) -> Image.Image:
    eight = frame if frame.dtype == np.uint8 else np.rint(frame / 257).astype(np.uint8)
    return Image.fromarray(eight[..., 0] if eight.shape[-1] == 1 else eight)


def _to_numpy(frame: Frame) -> NDArray[np.float32]:
    return frame.astype(np.float32) / np.float32(np.iinfo(frame.dtype).max)


_OUTPUTS = {
    "pil": _to_pil,
    "np": _to_numpy,
    "pt": lambda frame: torch.from_numpy(_to_numpy(frame)).permute(2, 0, 1).contiguous(),
}


def _refuse_output(name: str) -> Any:
    raise UpsrError(f"output_type is '{name}'; there are {', '.join(_OUTPUTS)}")
