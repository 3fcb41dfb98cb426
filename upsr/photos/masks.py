"""Masks of photos on disk: a file for one photo, or a folder with a mask of each photo's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from upsr.errors import UpsrError, one_line
from upsr.images.kinds import PHOTO_SUFFIXES
from upsr.images.reading import read_photo
from upsr.photos.sources import STREAM, OnRemark, Remark, Source, irregular
from upsr.pipeline.masks import check_fits, mask_of


def without_masks(found: Sequence[Source], masks: Path, on_remark: OnRemark) -> list[Source]:
    """Photos that are not masks themselves, as those are of a folder of masks among the photos.

    Raises:
        UpsrError: the masks are not there, or one file is the mask of several photos.
    """
    if not masks.exists():
        raise UpsrError(f"--mask: {one_line(str(masks))}: no such file or folder")
    place, photos = masks.resolve(), []
    for source in found:
        resolved = source.path.resolve()
        if source.path != STREAM and place in (resolved, *resolved.parents):
            on_remark(Remark(source.path, "a mask", "skipped"))
        else:
            photos.append(source)
    if len(photos) > 1 and not masks.is_dir():
        raise UpsrError(
            f"--mask: {one_line(str(masks))} is one file, but there are {len(photos)} photos; "
            "give a folder with masks of the photos' names"
        )
    return photos


def mask_for(source: Source, masks: Path) -> Path:
    """The file of a photo's mask, which may not be there: in a folder of masks the place that the photo has below its input.

    The mask may be of another format: the mask of ``a.jpg`` is ``a.jpg`` or else ``a.png`` and so on.
    """
    if not masks.is_dir():
        return masks
    own = masks / source.inside
    others = (own.with_suffix(suffix) for suffix in (".png", *sorted(PHOTO_SUFFIXES)))
    return next((path for path in (own, *others) if path.exists()), own.with_suffix(".png"))


def read_mask(path: Path, photo: str, shape: tuple[int, int], *, max_pixels: int) -> Tensor:
    """The mask, see :func:`upsr.pipeline.masks.mask_of`, of a (height, width) photo.

    Args:
        photo: its name in messages.

    Raises:
        UpsrError: it is missing, cannot be read, or has other proportions.
    """
    name = f"{photo}: its mask {one_line(str(path))}"
    if not path.exists():
        raise UpsrError(f"{name} is not there; draw one, all white if the model may invent everywhere")
    if kind := irregular(path):
        raise UpsrError(f"{name}: {kind}, which is not opened")
    mask = mask_of(read_photo(path, name, max_pixels=max_pixels))
    try:
        check_fits(mask, shape)
    except UpsrError as error:
        raise UpsrError(f"{name}: {error}") from None
    return mask
