"""Images between bytes, arrays and tensors."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from upsr.atomic import atomic_write
from upsr.errors import UpsrError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


_LARGE_PNG = 1 << 17
"""Bytes from which on decoding a part of a PNG is worth it."""

_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


class UnreadableImageError(UpsrError):
    """An image file that cannot be decoded."""


def decode_image(data: bytes, channels: int, name: str) -> NDArray[np.uint8]:
    """Decode to (H, W, channels) uint8, RGB or grey, upright by its EXIF orientation.

    Pillow and torchvision, unlike OpenCV, refuse truncated files instead of filling them with grey. Colour JPEGs go to
    torchvision, which gives the same pixels in two thirds of the time (docs/benchmarks.md). Alpha is dropped; 16-bit images
    are scaled to 8 bit.

    Args:
        channels: 1 or 3.
        name: file name, for the message.

    Raises:
        UnreadableImageError: the bytes are no whole image.
    """
    with _refusing(data, name), Image.open(io.BytesIO(data)) as file:
        if channels == 3 and file.format == "JPEG" and file.mode == "RGB" and _orientation(file, data) == 1:
            pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return decode_jpeg(pixels, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I") or image.mode == "F":
            image = Image.fromarray(_to_eight_bit(np.asarray(image)))
        return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(image.height, image.width, channels)


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) of an encoded image, upright, from its header.

    Raises:
        UnreadableImageError: it has none.
    """
    with _refusing(data, name), Image.open(io.BytesIO(data)) as file:
        width, height = file.size
        return (width, height) if _orientation(file, data) in _QUARTER_TURNS else (height, width)


def decode_region(data: bytes, channels: int, name: str, top: int, left: int, size: int) -> NDArray[np.uint8]:
    """(size, size, channels) uint8: a square part of what :func:`decode_image` gives.

    Large colour PNGs are decoded down to the last row that is needed, and only as far as that.

    Raises:
        UnreadableImageError: the bytes are no whole image.
    """
    if channels == 3 and len(data) > _LARGE_PNG and _is_plain_png(data):
        import pyvips  # here: its import takes a while, and few sets need it

        with _refusing(data, name):
            image = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="truncated")
            return image.crop(left, top, size, size).numpy()
    return decode_image(data, channels, name)[top : top + size, left : left + size]


@contextlib.contextmanager
def _refusing(data: bytes, name: str) -> Iterator[None]:
    """Turns what decoders say of a damaged file into one message, the same for every attempt."""
    try:
        yield
    except UnidentifiedImageError:
        reason = "no image format that Pillow knows" if data else "the file is empty"
        raise UnreadableImageError(f"{name}: not a readable image ({reason})") from None
    except Exception as error:  # damaged files fail in many ways inside the decoders
        reason = " ".join(str(error).split())
        raise UnreadableImageError(f"{name}: not a readable image ({reason})") from None


def _orientation(file: Image.Image, data: bytes) -> int:
    """EXIF orientation, 1 for upright. Asking a PNG decodes all of it, so only those that say something are asked."""
    if file.format == "PNG" and b"eXIf" not in data:
        return 1
    return file.getexif().get(_ORIENTATION, 1)


def _is_plain_png(data: bytes) -> bool:
    """Whether it is a whole RGB PNG of 8 bits without an orientation of its own, by its list of chunks."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[24:26] != b"\x08\x02":
        return False
    place = 8
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"IEND":
            return True
        if kind in (b"eXIf", b"tRNS"):
            return False
        place += 12 + length
    return False


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
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    with atomic_write(path) as temporary:
        # Half the time of Pillow's default for a tenth more bytes.
        picture.save(temporary, format="PNG", compress_level=3)
