"""Images between bytes, arrays and tensors."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from upsr.atomic import atomic_write
from upsr.images import png, tiff
from upsr.images.kinds import HEAD, UnreadableImageError, kind_of
from upsr.images.metadata import orientation_of, upright
from upsr.images.reading import read_photo, refusing
from upsr.images.reading import read_size as image_size
from upsr.images.samples import to_eight_bit
from upsr.images.vips import vips, vips_works_here

__all__ = [
    "UnreadableImageError", "decode_image", "decode_region", "image_size", "png_bytes", "to_tensor", "to_uint8", "write_png",
]  # fmt: skip

_LARGE_PNG = 1 << 17
"""Bytes from which decoding only the needed rows of a PNG saves time."""

_MOST_PIXELS = 2 * 89_478_485
"""Pillow's limit, beyond which it refuses a file as a decompression bomb."""

_VISIBLE = 128
"""Alpha below which a pixel shows more of the background than of its own colour."""


def decode_image(data: bytes, channels: int, name: str) -> NDArray[np.uint8]:
    """Decode to (H, W, channels) uint8, RGB or grey, upright; of several frames or pages the first.

    Plain 8-bit files are decoded by Pillow, colour JPEGs by torchvision, which gives the same pixels in two
    thirds of the time (docs/benchmarks.md). :func:`upsr.images.reading.read_photo` reads all others; 16 bits are scaled to 8.

    Args:
        channels: 1 or 3.
        name: file name, for the message.

    Raises:
        UnreadableImageError: the bytes are no whole image, or transparent pixels hide their colours.
    """
    image = _decode_plain(data, channels)
    if image is not None:
        return image
    frame = to_eight_bit(read_photo(data, name, max_pixels=_MOST_PIXELS).frames[0])
    if frame.shape[-1] % 2 == 0:
        if frame[..., -1].min() < _VISIBLE:
            raise UnreadableImageError(
                f"{name}: not a usable image (transparent pixels hide colours that nobody meant to be seen); "
                "flatten it onto a background"
            )
        frame = frame[..., :-1]
    return _with_channels(Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame), channels)


def decode_region(data: bytes, channels: int, name: str, top: int, left: int, size: int) -> NDArray[np.uint8]:
    """(size, size, channels) uint8: a square crop of :func:`decode_image`.

    Large colour PNGs are decoded down to the last row of the crop only.

    Raises:
        UnreadableImageError: the bytes are no whole image.
    """
    rgb = channels == 3 and data[:8] == png.SIGNATURE and data[24:26] == b"\x08\x02"
    if rgb and len(data) > _LARGE_PNG and vips_works_here() and _plain_png(None, data) == 1:
        with refusing(name):
            image = vips().Image.pngload_buffer(data, access="sequential", fail_on="truncated")
            return image.crop(left, top, size, size).numpy()
    return decode_image(data, channels, name)[top : top + size, left : left + size]


def _decode_plain(data: bytes, channels: int) -> NDArray[np.uint8] | None:
    """The image of a plain file; ``None`` for others and for damaged ones, whose fault the reader reports."""
    plain_orientation = _PLAIN.get(kind_of(data[:HEAD]) or "")
    if plain_orientation is None:
        return None
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF")) as file:
            orientation = plain_orientation(file, data)
            if orientation is None:
                return None
            if channels == 3 and file.format == "JPEG" and file.mode == "RGB":
                from torchvision.io import ImageReadMode, decode_jpeg  # a second to import, which PNGs spare

                pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                image = decode_jpeg(pixels, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
            else:
                image = _with_channels(file, channels)
            return image if orientation == 1 else upright(image, orientation)
    return None


def _plain_png(_: Image.Image | None, data: bytes) -> int | None:
    facts = png.read_facts(data)
    plain = facts.ends and facts.bits <= 8 and not facts.alpha and facts.frames == 1
    return facts.orientation if plain else None


def _plain_tiff(file: Image.Image, data: bytes) -> int | None:
    page = tiff.read_pages(data)[0]
    plain = (page.number, page.bits, page.sample_format, page.channels) == (0, 8, 1, page.colours)
    # Pillow applies orientation to TIFFs by rules of its own.
    return 1 if plain and page.orientation == 1 and page.photometric <= 2 and file.mode in ("L", "RGB") else None


def _plain_other(file: Image.Image, data: bytes) -> int | None:
    plain = file.mode in ("L", "RGB") and "transparency" not in file.info
    return orientation_of(file.info.get("exif"), file.info.get("xmp")) if plain else None


_PLAIN = {"PNG": _plain_png, "JPEG": _plain_other, "WEBP": _plain_other, "TIFF": _plain_tiff}
"""The orientation of a plain file by its header, that is 8 bits, grey or RGB; ``None`` of any other."""


def _with_channels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(image.height, image.width, channels)


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, C) uint8 -> (C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(C, H, W) in [0, 1] -> (H, W, C) uint8, clamped and rounded."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """An (H, W, C) uint8 image as the content of a PNG file."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    # Half the time of Pillow's default for a tenth more bytes.
    picture.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def write_png(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write an (H, W, C) uint8 image as PNG; a failure leaves no file."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(image))
