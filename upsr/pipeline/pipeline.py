"""Photos in, photos four times as large out: the model for people who use it."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from upsr.accelerate.compiled import Compiled
from upsr.accelerate.in_openvino import InOpenVINO
from upsr.archs.contracts import DenoisingNetwork
from upsr.atomic import writable_folder
from upsr.choices import COMPILERS, DEFAULT_WEIGHTS, NOISE_SOURCES, OPENVINO
from upsr.config.schema import TileOptions
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.methods.base import Knob, Method, Seen, TextKnob, Watch
from upsr.pipeline.checks import refuse_unknown
from upsr.pipeline.files import load_model, save_model
from upsr.pipeline.hardware import dtype_for, usable_device
from upsr.pipeline.images import ImageLike, OutputType, items_of, lost_depth, output_of, photo_of, shown_frame
from upsr.pipeline.masks import mask_of
from upsr.pipeline.memory import OVERLAP, SCRATCH_ROOM, choose_tile, free_memory
from upsr.pipeline.restoration import COLOUR, Restoration, faithful_for
from upsr.pipeline.settings import Settings, UPSROutput
from upsr.provenance import weights_digest
from upsr.tiling.colour import COLOUR_FIXES
from upsr.tiling.peers import Peers
from upsr.tiling.scratch import Scratch
from upsr.tiling.tiles import Progress, TilePlan

_LEAST_TILE, _LARGE = 8, 1 << 16
_COMPILED = "denoiser"
"""The part that is called once for each step."""
SCALE = "scale"
"""The knob of a method that restores at any scale."""


class UPSRPipeline:
    """A method with everything around it.

    Examples:
        >>> pipe = UPSRPipeline.from_pretrained("tiny")            # doctest: +SKIP
        >>> pipe("photo.jpg", seed=1).images[0].save("large.png")  # doctest: +SKIP

    Args:
        method: restores images.
        config: describes the method, as in ``config.json``.
        device: where the method's networks compute.
        dtype: the type that they compute in.
        compile: form of the method's ``denoiser``, one of :data:`upsr.choices.COMPILERS`.

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
        if compile not in COMPILERS:
            raise UpsrError(f"compile is '{compile}'; there are {', '.join(COMPILERS)}")
        if compile != "none" and not isinstance(method.parts().get(_COMPILED), DenoisingNetwork):
            raise UpsrError(f"compile: is for a {_COMPILED} of (x, t, lq), and this method has none; leave it out")
        self.config = config
        self.compile = compile
        self.method = method
        self.to(device, dtype)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT_WEIGHTS,
        *,
        method: str | None = None,
        parts: Mapping[str, str | Path] | None = None,
        g: str | Path | None = None,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        compile: str = "none",
        **hub: Any,
    ) -> Self:
        """A pipeline from wherever a model may be.

        Args:
            source: shipped weights by name (``"tiny"``), or fetched ones (``upsr weights list``); a folder that
                :meth:`save_pretrained` wrote, or of a training run; an option file; a weight file of a training run, in its
                folder; published weights that a method knows, a file or a folder of diffusers; or a ``user/name`` of the Hugging
                Face Hub that holds one of these folders.
            method: name or path of the only method that is asked; by default every one of this package.
            parts: weights of the method's other parts by their names, beside published weights: ``{"g": "atd_real.pth"}``.
            g: as ``parts={"g": ...}``.
            device: "auto" (the accelerator where there is one, else the CPU), or any torch device.
            dtype: what the denoiser computes in: "auto" (the fastest that differs by less than a grey level), "float32",
                "bfloat16", "float16"; or what it keeps its weights in, to compute in float32: "int8", "float8".
            compile: "default", "reduce-overhead" or "max-autotune" of ``torch.compile`` for the denoiser; starting takes up to
                minutes for each of the first sizes (see :func:`upsr.accelerate.compiled.Compiled`); "openvino" on CPUs.
            hub: for ``huggingface_hub.snapshot_download``: revision, token, cache_dir, local_files_only.

        Raises:
            UpsrError: there is no such model or argument, its files do not fit, or the device is not there.
        """
        if hub:
            from huggingface_hub import snapshot_download

            refuse_unknown(hub, cls.from_pretrained, snapshot_download)
        device = usable_device(device)
        dtype_for(dtype, device)  # a wrong one is refused before the weights are read
        if g is not None and "g" in (parts or {}):
            raise UpsrError("g= and parts= both name weights of g; give one of them")
        beside = {**(parts or {}), **({} if g is None else {"g": g})}
        loaded, config = load_model(source, method=method, parts=beside, hub=hub)
        return cls(loaded, config, device, dtype, compile)

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
        # Converted where the weights are: of two forms only one takes memory of the device.
        working = working.to(self.device)
        part: Any = (self.method if self.compile == OPENVINO else working).parts().get(_COMPILED)
        if self.compile == OPENVINO:
            return working.replaced(_COMPILED, InOpenVINO(part, self.dtype, self.device))
        if self.compile != "none":
            working = working.replaced(_COMPILED, Compiled(part, mode=self.compile))
        return working

    def __repr__(self) -> str:
        networks = "".join(
            f", {name} {type(network).__name__} ({sum(p.numel() for p in network.parameters()) / 1e6:.1f} M)"
            for name, network in self.method.parts().items()
        )
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({type(self.method).__name__} x{self.scale:g}{networks}, {dtype} on {self.device})"
        )

    def digest(self) -> dict[str, str]:
        """sha256 of the weights of the method's networks, by name."""
        return {name: weights_digest(network) for name, network in self.method.parts().items()}

    @property
    def scale(self) -> float:
        """How much larger the method makes a photo."""
        return self.method.facts.scale

    @property
    def draws(self) -> bool:
        """Results depend on the seed."""
        return self.method.facts.draws

    @property
    def maps(self) -> Sequence[str]:
        """Names of the maps that a restoration shows."""
        return self.method.maps

    def knobs(self) -> Mapping[str, Knob | TextKnob]:
        """The method's settings, by name."""
        return self.method.knobs()

    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        mask: ImageLike | Sequence[ImageLike] | None = None,
        output_type: OutputType = "pil",
        return_intermediates: bool = False,
        progress: Progress | None = None,
        **settings: Any,
    ) -> UPSROutput:
        """Upscale images.

        Args:
            image: one or a list: a path; a PIL image, turned upright as its EXIF says; (H, W), (H, W, 1), (H, W, 3) or
                (H, W, 4) uint8 or uint16, or float in [0, 1]; a torch (C, H, W) or (B, C, H, W) tensor in [0, 1].
            mask: one for each image, of its proportions: white where the model may invent details, black where the result is the
                method's faithful estimate (UPSR: g(y)), grey for a mean of both; truth values are white where they are true.
            output_type: "pil", of 8 bits; "np", (H, W, C) float32 in [0, 1]; "pt", (C, H, W) in [0, 1].
            return_intermediates: also give the maps and the pictures on the way.
            progress: called with (done, total) after each part of an image; what it raises ends the work.
            settings: the fields of :class:`Settings` (seed, outscale, size, tile, consistent, ...), and the method's knobs
                (UPSR: steps, fidelity, adaptive).

        Raises:
            UpsrError: an image cannot be read, or a setting is out of its range.
        """
        chosen = Settings.of(**settings)
        chosen.refuse_unknown(self.knobs())
        convert = output_of(output_type)
        images: list[Any] = []
        notes: list[tuple[str, ...]] = []
        shown: dict[str, list[dict[str, Any]]] = {"map": [], "image": []}
        items = list(items_of(image))
        masks = [None] * len(items) if mask is None else [mask_of(item) for item in items_of(mask)]
        if len(masks) != len(items):
            raise UpsrError(f"mask: {len(masks)} for {len(items)} images; give one for each")
        for item, own in zip(items, masks, strict=True):
            seen: list[Seen] = []
            watch = seen.append if return_intermediates else None
            photo = photo_of(item)
            large = self.upscale(photo, chosen, mask=own, progress=progress, watch=watch)
            notes.append((*large.notes, *lost_depth(item, photo, output_type)))
            frames = [convert(frame) for frame in large.frames]
            images.append(frames if len(frames) > 1 else frames[0])
            for kind, found in shown.items():
                found.append({item.name: convert(shown_frame(item)) for item in seen if item.kind == kind})
        if not return_intermediates:
            return UPSROutput(images, notes=notes)
        return UPSROutput(images, maps=shown["map"], intermediates=shown["image"], notes=notes)

    def upscale(
        self,
        photo: Photo,
        settings: Settings | None = None,
        *,
        mask: Tensor | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
        peers: Peers | None = None,
    ) -> Photo:
        """Upscale a photo; profile, EXIF and timing are kept, alpha is upscaled apart.

        All frames of an animation have the noise of the first, so that what stands still does not flicker.

        Args:
            mask: (h, w) of any size of the photo's proportions, see :mod:`upsr.pipeline.masks`; one for all frames.
            progress: as in calling the pipeline, over all frames.
            watch: sees the intermediate results of the first frame.
            peers: processes that share the tiles; all of them call this with the same photo and get the same result.

        Raises:
            UpsrError: the mask does not fit, or the method has no faithful estimate.
        """
        settings = self.settled(settings or Settings())
        first = photo.frames[0]
        size = self.target_size(first.shape[:2], settings)
        method = self._working.adjusted(**self._knobs_for(first.shape[:2], size, settings))
        faithful = None if mask is None else faithful_for(method, mask, (first.shape[0], first.shape[1]))
        name = hashlib.sha256(repr(first.shape).encode() + first.tobytes()).hexdigest()
        parts, count = itertools.count(), len(photo.frames) * (1 if mask is None else 2)

        def plan() -> TilePlan:
            part = next(parts)
            counted = None if progress is None else lambda done, total: progress(part * total + done, count * total)
            scratch = Scratch(self.device, self._scratch_room())
            return TilePlan(self._tile(settings), scratch, self._tiles_at_once(settings), counted, peers)

        restoration = Restoration(method, faithful, mask, size, name, settings, plan, self.device)
        made = [restoration.of(frame, None if n else watch) for n, frame in enumerate(photo.frames)]
        notes = [note for _, note in made if note is not None][:1]
        return replace(photo, frames=tuple(frame for frame, _ in made), notes=(*photo.notes, *notes))

    @property
    def takes_masks(self) -> bool:
        """The method has a faithful estimate, which a result is outside of a mask."""
        return self.method.faithful() is not None

    def settled(self, settings: Settings, processes: int = 1) -> Settings:
        """The settings with a tile that the free memory holds in place of "auto".

        Args:
            processes: that share this machine's memory.

        Raises:
            UpsrError: a setting is out of its range.
        """
        self.method.adjusted(**settings.knobs)
        if settings.noise not in NOISE_SOURCES:
            raise UpsrError(f"noise is '{settings.noise}'; there are {', '.join(NOISE_SOURCES)}")
        if settings.colour_fix not in (None, *COLOUR_FIXES):
            raise UpsrError(f"colour_fix is '{settings.colour_fix}'; there are {', '.join(COLOUR_FIXES)}")
        # Of a photo so large that rounding the sides of the result does not matter.
        self.target_size((1, 1) if settings.size is not None else (_LARGE, _LARGE), settings)
        self._tiles_at_once(settings)
        if settings.tile == "auto":
            # The size of the result may follow from a knob.
            knobs = settings.knobs if settings.size else self._knobs_for((1, 1), (1, 1), settings)
            return replace(settings, tile=choose_tile(self.method.adjusted(**knobs), self.device, processes))
        least = max(self.method.facts.multiple, _LEAST_TILE)
        if settings.tile is not None and settings.tile < least:
            raise UpsrError(
                f"tile is {settings.tile}; give at least {least} LR pixels: multiples of {self.method.facts.multiple} are used"
            )
        return settings

    def target_size(self, shape: Sequence[int], settings: Settings) -> tuple[int, int]:
        """(height, width) of the result of a (height, width) photo.

        Raises:
            UpsrError: a setting is out of its range, or the result is to be consistent with a photo that is not smaller.
        """
        size = self._size_of(shape, settings)
        if settings.consistent and (size[0] <= shape[0] or size[1] <= shape[1]):
            raise UpsrError(
                "consistent: goes with results that are wider and higher than the photo; give a larger size"
            )
        return size

    def _size_of(self, shape: Sequence[int], settings: Settings) -> tuple[int, int]:
        height, width = shape
        if settings.size is not None:
            wide, high = settings.size
            if not (wide or high) or any(side is not None and side < 1 for side in (wide, high)):
                raise UpsrError(f"size is {settings.size}; give (width, height) in pixels, of which one may be None")
            if wide is None or high is None:
                factor = wide / width if wide is not None else high / height  # type: ignore[operator]
                return max(round(height * factor), 1), max(round(width * factor), 1)
            return high, wide
        own: Any = settings.knobs.get(SCALE) or self.scale
        factor = own if settings.outscale is None else settings.outscale
        if not 0 < factor <= 64:
            raise UpsrError(f"outscale is {factor:g}; give a factor above 0 and up to 64")
        return max(round(height * factor), 1), max(round(width * factor), 1)

    def _knobs_for(
        self, shape: Sequence[int], size: Sequence[int], settings: Settings
    ) -> Mapping[str, float | str | None]:
        """The settings' knobs, with the colour fix for a method that has one.

        A method that restores at any scale does so at that of the result, unless the knob is set.

        Args:
            shape, size: (height, width) of the photo and of the result.
        """
        own, given = self.knobs(), settings.knobs
        if settings.colour_fix is not None and COLOUR in own:
            given = {COLOUR: settings.colour_fix, **given}
        knob: Any = own.get(SCALE)
        asked = settings.outscale is not None or settings.size is not None
        if knob is None or given.get(SCALE) is not None or not asked:
            return given
        factor = settings.outscale if settings.size is None else max(size[0] / shape[0], size[1] / shape[1])
        assert factor is not None
        return {**given, SCALE: min(max(factor, knob.low), knob.high)}

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
