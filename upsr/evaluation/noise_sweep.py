"""Measures restorations over noise levels; what is measured is kept, and not measured again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from upsr.atomic import writable_folder
from upsr.data.datasets import ImageFolder
from upsr.data.image_io import to_tensor, to_uint8, write_png
from upsr.errors import UpsrError
from upsr.evaluation.results import Journal, Measured
from upsr.evaluation.work import WHOLE_SET, digest_of_file
from upsr.methods.base import Facts, Method
from upsr.metrics import PSNR, SSIM, Metric, MetricUnavailableError, SetMetric
from upsr.metrics.bands import band_energies
from upsr.provenance import digest_of
from upsr.restoring import ModelRestorer, Restorer

_DIGITS = 16

Values = dict[str, float]
Curves = dict[str, list[float]]
"""The mean of each measure at each noise level, and the levels as ``t``."""


@dataclass(frozen=True)
class HRPhoto:
    """A photo to degrade and restore.

    Attributes:
        image: (C, H, W) in [0, 1].
    """

    name: str
    image: Tensor

    @property
    def content(self) -> str:
        """Digest of its pixels."""
        return hashlib.sha256(self.image.contiguous().numpy().tobytes()).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class Pair:
    """A batch of photos and their degraded forms.

    Attributes:
        gt: (B, C, H, W) in [0, 1].
        lq: (B, C, h, w) in [0, 1].
        upsampled: of the size of ``gt``: what a restoration has to improve on.
    """

    gt: Tensor
    lq: Tensor
    upsampled: Tensor


Degrade = Callable[[Tensor, float], Pair]
"""Degrades a batch (B, C, H, W) by a scale."""


def read_photos(images: ImageFolder, *, count: int | None, side: int) -> list[HRPhoto]:
    """The central squares of the first photos.

    Raises:
        UpsrError: one is smaller than the square.
    """
    found = []
    for key, name in list(zip(images.keys, images.names(), strict=True))[:count]:
        pixels = images.image(key)
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        if min(top, left) < 0:
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UpsrError(f"{images.root}/{key}: {size} is smaller than the square of {side} that is measured")
        found.append(HRPhoto(name, to_tensor(pixels[top : top + side, left : left + side])))
    return found


def bicubic(photos: Tensor, scale: float) -> Pair:
    """Antialiased bicubic reduction, rounded to 8 bit, and bicubic enlargement.

    At a fractional scale the photos are first cropped at the bottom and the right to what their LR images restore to.
    """
    low = [int(side / scale) for side in photos.shape[-2:]]
    high = Facts(scale, photos.shape[1]).output_size(*low)
    gt = photos[..., : high[0], : high[1]]
    lq = F.interpolate(gt, size=low, mode="bicubic", antialias=True).clamp(0, 1)
    lq = (lq * 255).round() / 255
    return Pair(gt, lq, F.interpolate(lq, size=high, mode="bicubic", align_corners=False).clamp(0, 1))


def noise_levels(last: float, step: float) -> list[float]:
    """0, step, 2 step ... up to ``last``, without errors of addition."""
    return [round(i * step, 6) for i in range(int(last / step + 1e-6) + 1)]


def restorers_of(method: Method, scale: float, seed: int) -> Callable[[float], Restorer]:
    """The method at a scale, by noise level.

    Raises:
        UpsrError: it has no knob ``scale`` or ``noise_level``.
    """
    return lambda level: ModelRestorer(method.adjusted(scale=scale, noise_level=level), seed)


def fidelity_metrics() -> dict[str, Metric]:
    """PSNR and SSIM in RGB and, as ``_y``, on luma."""
    return {
        "psnr": PSNR(y_channel=False), "ssim": SSIM(y_channel=False), "psnr_y": PSNR(), "ssim_y": SSIM(),
    }  # fmt: skip


@dataclass
class NoiseSweep:
    """Photos, measures, and the values that are known.

    On a CPU values do not depend on the size of batches; on a GPU they do by rounding, as the restored images do.

    Attributes:
        folder: keeps the values (``journal/``) and, for the FID, the restored photos (``pictures/``).
        metrics: by name, see :class:`upsr.metrics.Metric`.
        fid: a measure of the whole set; ``None`` to leave it out.
    """

    photos: Sequence[HRPhoto]
    metrics: Mapping[str, Metric]
    folder: Path
    device: torch.device
    batch_size: int = 1
    degrade: Degrade = bicubic
    fid: SetMetric | None = None
    _journal: Journal = field(init=False)
    _known: dict[str, dict[str, list[Measured]]] = field(init=False)

    def __post_init__(self) -> None:
        self._journal = Journal(writable_folder(self.folder / "journal"), 0)
        self._known = self._journal.read()
        self._contents = {photo.name: photo.content for photo in self.photos}
        self._pictures = self.folder / "pictures" / digest_of(self._contents)[:_DIGITS]

    def curves(
        self, identity: Any, restorer: Callable[[float], Restorer], scale: float, levels: Sequence[float]
    ) -> Curves:
        """The measures of restorations by noise level.

        Args:
            identity: all that a restoration depends on besides scale and level, as JSON.
            restorer: for a level.
        """
        rows = []
        for level in tqdm(levels, desc=f"x{scale:g}", unit="level", disable=None, leave=False):
            rows.append(self._means({"of": identity, "level": level}, scale, restorer(level)))
        names = [name for name in rows[0] if all(name in row for row in rows)]
        return {"t": list(levels)} | {name: [row[name] for row in rows] for name in names}

    def upsampled(self, scale: float) -> Values:
        """The measures of the upsampled LR photos themselves."""
        return self._means({"of": "upsampled"}, scale, None)

    def known(self, identity: Any, name: str, measure: Callable[[], Values]) -> Values:
        """Values of something else than photos: measured, or those that are kept under the name."""
        work = digest_of([identity, self._contents])[:_DIGITS]
        kept = self._known.get(work, {}).get(name)
        if kept:
            return kept[-1].values
        values = measure()
        self._journal.add(work, name, Measured("", None, values))
        return values

    def _means(self, identity: Mapping[str, Any], scale: float, restorer: Restorer | None) -> Values:
        versions = {name: metric.version for name, metric in self.metrics.items()}
        work = digest_of({**identity, "scale": scale, "measures": versions})[:_DIGITS]
        pictures = self._pictures / work if self.fid else None
        known = {photo.name: values for photo in self.photos if (values := self._finished(work, photo, pictures))}
        todo = [photo for photo in self.photos if photo.name not in known]
        for start in range(0, len(todo), self.batch_size):
            batch = todo[start : start + self.batch_size]
            for photo, values, image in self._measured(batch, scale, restorer):
                picture = None
                if pictures is not None:
                    write_png(pictures / f"{photo.name}.png", to_uint8(image))
                    picture = digest_of_file(pictures / f"{photo.name}.png")
                self._journal.add(work, photo.name, Measured(self._contents[photo.name], picture, values))
                known[photo.name] = values
        rows = [known[photo.name] for photo in self.photos]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        means["hf_ratio"] = means.pop("high") / max(means.pop("high_reference"), 1e-12)
        return means | self._of_set(work, scale, pictures)

    def _finished(self, work: str, photo: HRPhoto, pictures: Path | None) -> Values | None:
        for entry in reversed(self._known.get(work, {}).get(photo.name, [])):
            here = None if pictures is None else digest_of_file(pictures / f"{photo.name}.png")
            if entry.content == self._contents[photo.name] and (pictures is None or here == entry.picture is not None):
                return entry.values
        return None

    @torch.inference_mode()
    def _measured(
        self, photos: Sequence[HRPhoto], scale: float, restorer: Restorer | None
    ) -> Iterator[tuple[HRPhoto, Values, Tensor]]:
        """Values and restored image of each photo of a batch."""
        pair = self.degrade(torch.stack([photo.image for photo in photos]).to(self.device), scale)
        names = [photo.name for photo in photos]
        restored = pair.upsampled if restorer is None else restorer(pair.lq, names)
        for i, photo in enumerate(photos):
            image, gt = restored[i : i + 1], pair.gt[i : i + 1]
            if not torch.isfinite(image).all():
                raise UpsrError(f"{photo.name}: the restored image has values that are not finite; check the weights")
            values = {name: metric(image, gt) for name, metric in self.metrics.items()}
            yield photo, values | band_energies(image, gt, scale), image[0]

    def _of_set(self, work: str, scale: float, pictures: Path | None) -> Values:
        """The FID of the restored photos, against the same squares of the photos."""
        if self.fid is None or pictures is None:
            return {}
        reference = self._pictures / f"photos_x{scale:g}"
        for photo in self.photos:
            path = reference / f"{photo.name}.png"
            if not path.is_file():
                write_png(path, to_uint8(self.degrade(photo.image[None], scale).gt[0]))
        content = digest_of([self.fid.version, self._contents])[:_DIGITS]
        for entry in self._known.get(work, {}).get(WHOLE_SET, []):
            if entry.content == content:
                return entry.values
        try:
            values = {"fid": self.fid(pictures, reference)}
        except MetricUnavailableError:
            return {}
        self._journal.add(work, WHOLE_SET, Measured(content, None, values))
        return values
