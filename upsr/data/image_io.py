"""Images between bytes, arrays and tensors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from upsr.atomic import atomic_write
from upsr.errors import UpsrError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class UnreadableImageError(UpsrError):
    """An image file that cannot be decoded."""


def decode_image(data: bytes, channels: int, name: str) -> NDArray[np.uint8]:
    """Decode to (H, W, channels) uint8, RGB or grey, upright by its EXIF orientation.

    Pillow, unlike OpenCV, refuses truncated files instead of filling them with grey. Alpha is dropped; 16-bit images
    are scaled to 8 bit.

    Args:
        channels: 1 or 3.
        name: file name, for the message.

    Raises:
        UnreadableImageError: the bytes are no whole image.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I") or image.mode == "F":
                image = Image.fromarray(_to_eight_bit(np.asarray(image)))
            return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(
                image.height, image.width, channels
            )
    except UnidentifiedImageError:
        reason = "no image format that Pillow knows" if data else "the file is empty"
        raise UnreadableImageError(f"{name}: not a readable image ({reason})") from None
    except Exception as error:  # damaged files fail in many ways inside the decoders
        raise UnreadableImageError(f"{name}: not a readable image ({error})") from None


def _to_eight_bit(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16-bit samples to 8 bit; Pillow itself would clip them."""
    return np.clip(np.rint(image.astype(np.float64) / 257), 0, 255).astype(np.uint8)


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, C) uint8 -> (C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(C, H, W) in [0, 1] -> (H, W, C) uint8, clamped and rounded."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def write_png(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write an (H, W, C) uint8 image as PNG, whole or not at all."""
    with atomic_write(path) as temporary:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(temporary, format="PNG")
