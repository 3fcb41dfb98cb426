"""The work behind the page's two buttons, without the page: checks, reading, upscaling, files of the results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from upsr.app import pictures
from upsr.app.batch import Batch, upscale_all
from upsr.app.jobs import Token
from upsr.app.limits import Limits
from upsr.app.masks import mask_for
from upsr.app.models import Model, Saving
from upsr.app.pictures import SMALLEST_SIDE, Region, Upload
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.images.writing import check_writable, write_photo
from upsr.methods.base import Seen
from upsr.photos.upscaling import inconsistency
from upsr.pipeline.images import shown_frame
from upsr.pipeline.pipeline import SCALE
from upsr.pipeline.settings import Settings

Report = Callable[..., Any]
"""Gradio's progress."""


@dataclass(frozen=True)
class Order:
    """One region of a photo to be upscaled.

    Attributes:
        painted: a painting of :func:`upsr.app.masks.painting`.
        mask: file of a mask of the whole photo.
    """

    upload: Upload
    region: Region
    painted: str | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Result:
    """A region that is upscaled.

    Attributes:
        before: the region at the result's size, by bicubic interpolation; ``before_path`` is its file.
        path: the result, with all of what the photo carries that its format holds.
        beside: files with which ``upsr upscale`` repeats it: the settings, then the mask and the crop where there are any.
        images, maps: pictures on the way, by name.
        text: what was done.
    """

    before: Photo
    before_path: str
    path: str
    beside: list[str]
    text: str
    images: dict[str, Image.Image] = field(default_factory=dict)
    maps: dict[str, Image.Image] = field(default_factory=dict)


class Work:
    """Upscales uploads within the limits.

    Args:
        folder: holds uploads and results; nothing else is read.
    """

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits, self._folder = limits, folder.resolve()

    def read(self, path: Path) -> Upload:
        """Look at an uploaded photo.

        Raises:
            UpsrError: it is no upload, no photo, or too large or small.
        """
        upload = pictures.read_upload(self.uploaded(path), self._limits.upload_pixels)
        _check_side(upload.width, upload.height)
        return upload

    def uploaded(self, path: Path) -> Path:
        """The path of an uploaded file.

        Raises:
            UpsrError: it is none, or too large.
        """
        path = path.resolve()
        if not path.is_file() or self._folder not in path.parents:
            raise UpsrError("the upload did not arrive; please try again")
        if path.stat().st_size > self._limits.upload_bytes:
            raise UpsrError(f"the file is larger than {self._limits.upload_bytes / 1e6:g} MB")
        return path

    def public(self, text: str) -> str:
        """A text without the folder, which names of files may begin with, as that of a result that the disk has no room for."""
        return text.replace(f"{self._folder}{os.sep}", "")

    def check(self, region: Region, model: Model, settings: Settings) -> None:
        """Raise UpsrError if a result, or what the model computes before it is made smaller, would be beyond the limits."""
        height, width = model.pipe.target_size((region.height, region.width), settings)
        most = self._limits.output_pixels
        if (pixels := height * width) > most:
            raise UpsrError(
                f"the result would have {pixels / 1e6:.1f} megapixels, more than the {most / 1e6:g} allowed: "
                "choose a smaller crop or scale"
            )
        if SCALE in model.pipe.knobs():
            return  # it restores at the result's scale
        if (pixels := round(region.height * region.width * model.pipe.scale**2)) > most:
            raise UpsrError(
                f"the model computes x{model.pipe.scale:g}, {pixels / 1e6:.1f} megapixels, before the result is made smaller; "
                f"{most / 1e6:g} are allowed: choose a smaller crop"
            )

    def one(
        self, order: Order, model: Model, settings: Settings, saving: Saving, token: Token, progress: Report
    ) -> Result:
        """Upscale a region.

        Args:
            settings: with a tile in place of "auto".
            saving: of the result.
            token: ends it.

        Raises:
            UpsrError: the photo is gone, the mask cannot be used, or the pipeline refuses.
        """
        began = time.perf_counter()

        def report(done: int, total: int) -> None:
            token.check()
            progress((done, total), desc="Upscaling", unit="steps")

        upload, region = order.upload, order.region
        if not upload.path.is_file():
            raise UpsrError("the photo is no longer on the server; please upload it again")
        place, name = pictures.new_place(self._folder), _name_of(upload.path, model, settings, saving)
        photo = pictures.crop(pictures.open_photo(upload.path, self._limits.upload_pixels), region)
        check_writable(Path(name), photo, model.pipe.target_size(photo.frames[0].shape[:2], settings))
        mask = mask_for(
            order.painted, order.mask, upload, region, place / f"{Path(name).stem}_mask.png", self._limits.upload_pixels
        )
        seen: dict[str, dict[str, Image.Image]] = {"image": {}, "map": {}}

        def watch(item: Seen) -> None:
            seen[item.kind][item.name] = pictures.shown(shown_frame(item))

        large = model.pipe.upscale(
            photo, settings, mask=None if mask is None else mask.weight, progress=report, watch=watch
        )
        token.check()
        height, width = large.frames[0].shape[:2]
        before = pictures.enlarged(photo, width, height)
        losses = (
            *inconsistency(place / name, settings.consistent),
            *write_photo(place / name, large, quality=saving.quality),
        )
        write_photo(place / "bicubic.png", before)
        record = model.record(settings, saving, None if mask is None else mask.path.name)
        beside = [_record(place / f"{Path(name).stem}.json", record)]
        if mask is not None:
            beside.append(str(mask.path))
        if region != pictures.whole(upload):
            beside.append(str(place / f"{upload.path.stem}_crop.png"))
            write_photo(Path(beside[-1]), photo)
        text = f"{region.width} x {region.height} to {width} x {height} pixels"
        said = [text, *([f"seed {settings.seed}"] if model.pipe.draws else []), *(["within the mask"] if mask else [])]
        notes = "".join(f"; {note}" for note in (*large.notes[len(photo.notes) :], *losses))
        return Result(
            before, str(place / "bicubic.png"), str(place / name), beside,
            f"Done in {time.perf_counter() - began:.1f} s: {', '.join(said)}{notes}.", seen["image"], seen["map"],
        )  # fmt: skip

    def several(
        self, paths: list[Path], model: Model, settings: Settings, saving: Saving, token: Token, progress: Report
    ) -> tuple[Batch, str]:
        """Upscale photos whole, into a ZIP file that holds the settings, too; what became of them, also as a text."""
        began = time.perf_counter()

        def upscaled(number: int, path: Path) -> Photo:
            def report(done: int, total: int) -> None:
                token.check()
                progress((number * total + done, len(paths) * total), desc=f"Photo {number + 1} of {len(paths)}")

            token.check()
            photo = pictures.open_photo(self.uploaded(path), self._limits.upload_pixels)
            height, width = photo.frames[0].shape[:2]
            _check_side(width, height)
            self.check(Region(0, 0, width, height), model, settings)
            check_writable(name_of(path), photo, model.pipe.target_size((height, width), settings))
            return model.pipe.upscale(photo, settings, progress=report)

        def name_of(path: Path) -> Path:
            return Path(_name_of(path, model, settings, saving))

        record = json.dumps(model.record(settings, saving), indent=2) + "\n"
        batch = upscale_all(
            paths, upscaled, name_of, saving.quality, record, self._folder, consistent=settings.consistent
        )
        text = f"{batch.done} of {len(paths)} photos done in {time.perf_counter() - began:.1f} s."
        if batch.refused:
            text += f" Not done: {'; '.join(batch.refused[:3])}{'; ...' if len(batch.refused) > 3 else ''}."
        return batch, text


def _check_side(width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise UpsrError(f"the photo is smaller than {SMALLEST_SIDE} pixels")


def _record(path: Path, record: dict[str, Any]) -> str:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return str(path)


def _name_of(path: Path, model: Model, settings: Settings, saving: Saving) -> str:
    sides = zip("wh", settings.size or (), strict=False)
    size = (
        "_".join(f"{letter}{side}" for letter, side in sides if side) or f"x{settings.outscale or model.pipe.scale:g}"
    )
    return pictures.result_name(path, size, settings.seed if model.pipe.draws else None, saving.suffix)
