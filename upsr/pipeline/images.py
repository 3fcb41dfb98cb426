"""Images of all kinds as photos, and pixels as images of all kinds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from upsr.choices import MAX_MEGAPIXELS
from upsr.errors import UnsoundResultError, UpsrError
from upsr.images.metadata import orientation_of, upright
from upsr.images.photo import Frame, Photo
from upsr.images.pillow import frame_of
from upsr.images.reading import read_photo
from upsr.images.samples import UnclearSamplesError
from upsr.methods.base import Seen
from upsr.pipeline.frames import alpha_of, to_frame

ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor | Photo
OutputType = Literal["pil", "np", "pt"]

_SHOWS_SOMETHING, _SHOWS_NOTHING = 32 / 255, 1 / 255
"""Differences between the largest and the smallest value of a photo, and of its result."""


def check_sound(image: Tensor, lq: Tensor) -> None:
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


def resized_alpha(frame: Frame, size: tuple[int, int]) -> Tensor | None:
    alpha = alpha_of(frame)
    return None if alpha is None else resized(alpha[None], size)[0]


def shown_frame(seen: Seen) -> Frame:
    """An intermediate result, (1, C, H, W), as 8-bit pixels; maps are grey, by the mean of their channels."""
    image, channels = seen.image[0], 3
    if seen.kind == "map":
        image, channels = image.mean(dim=0, keepdim=True), 1
    return to_frame(image.expand(3, -1, -1), None, np.zeros((1, 1, channels), np.uint8))


def items_of(image: ImageLike | Sequence[ImageLike]) -> Iterable[ImageLike]:
    if isinstance(image, Tensor) and image.dim() == 4:
        return list(image)
    return image if isinstance(image, (list, tuple)) else [image]  # type: ignore[list-item]


def photo_of(image: ImageLike) -> Photo:
    """The photo that a path, a PIL image, an array or a tensor is; files and PIL images are turned upright by EXIF or XMP."""
    if isinstance(image, (str, Path)):
        return read_photo(Path(image), str(image), max_pixels=MAX_MEGAPIXELS * 10**6)
    if isinstance(image, Image.Image):
        try:
            frame = frame_of(image)
            # Pillow turns the pixels of a TIFF itself when it reads them, and only then takes the orientation out of both.
            xmp = image.info.get("xmp")
            xmp = xmp.encode() if isinstance(xmp, str) else xmp
            return Photo((upright(frame, orientation_of(image.info.get("exif"), xmp)),), image.format or "PNG")
        except UnclearSamplesError as error:
            raise UpsrError(f"an image has {error}; give 8 or 16 bits, or floats in [0, 1]") from None
    if isinstance(image, Photo):
        return image
    if isinstance(image, Tensor):
        image = _array_of(image)
    if not isinstance(image, np.ndarray):
        raise UpsrError(f"an image is a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    return Photo((_of_array(image),), "PNG")


def lost_depth(image: ImageLike, photo: Photo, kind: str) -> tuple[str, ...]:
    """A phrase where the result as ``kind`` has fewer bits than the image that the photo is of.

    Floats are kept in 16 bits and promise none.
    """
    if isinstance(image, Image.Image):
        is_float = image.mode == "F"
    else:
        is_float = isinstance(image, (np.ndarray, Tensor)) and image.dtype not in (np.uint16, torch.uint16)
    if kind != "pil" or is_float or photo.frames[0].dtype != np.uint16:
        return ()
    return ("more than 8 bits left out: output_type='pil' has 8; 'np' and 'pt' keep them",)


def _array_of(image: Tensor) -> NDArray[Any]:
    """(H, W, C) of (C, H, W), or (H, W): whole numbers as they are, others in float32 at least, as bfloat16 has no array."""
    pixels = image.detach().cpu()
    pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32)) if pixels.is_floating_point() else pixels
    return (pixels.permute(1, 2, 0) if pixels.dim() == 3 else pixels).numpy()


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
    wide = pixels.astype(np.result_type(pixels, np.float32), copy=False)  # 65535 is beyond float16
    return np.rint(wide.clip(0, 1) * 65535).astype(np.uint16)


def _to_pil(frame: Frame) -> Image.Image:
    eight = frame if frame.dtype == np.uint8 else np.rint(frame / 257).astype(np.uint8)
    return Image.fromarray(eight[..., 0] if eight.shape[-1] == 1 else eight)


def _to_numpy(frame: Frame) -> NDArray[np.float32]:
    return frame.astype(np.float32) / np.float32(np.iinfo(frame.dtype).max)


_OUTPUTS: dict[str, Callable[[Frame], Any]] = {
    "pil": _to_pil,
    "np": _to_numpy,
    "pt": lambda frame: torch.from_numpy(_to_numpy(frame)).permute(2, 0, 1).contiguous(),
}


def output_of(kind: str) -> Callable[[Frame], Any]:
    """Converts pixels to what a caller asked for: "pil", "np" or "pt".

    Raises:
        UpsrError: there is no such type.
    """
    if not isinstance(kind, str) or kind not in _OUTPUTS:
        raise UpsrError(f"output_type is '{kind}'; there are {', '.join(_OUTPUTS)}")
    return _OUTPUTS[kind]
