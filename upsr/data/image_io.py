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
from torchvision.io import ImageReadMode, decode_jpeg

from upsr.atomic import atomic_write
from upsr.data import png_chunks, tiff_tags
from upsr.data.image_files import HEAD, PHOTO_SUFFIXES, UnreadableImageError, kind_of
from upsr.data.metadata import orientation_of, upright
from upsr.data.photo_reader import read_photo, read_size
from upsr.data.refusals import refusing
from upsr.data.samples import to_eight_bit
from upsr.data.vips_library import vips, vips_works_here

IMAGE_SUFFIXES = PHOTO_SUFFIXES
"""Of the files in a folder of images; a million of them are not opened to be told apart."""

_LARGE_PNG = 1 << 17
"""Bytes from which on decoding a part of a PNG is worth it."""

_MOST_PIXELS = 2 * 89_478_485
"""Beyond which Pillow takes a file for an attack."""

_VISIBLE = 128
"""Alpha below which a pixel shows less of its own colour than of what is behind it."""


def decode_image(data: bytes, channels: int, name: str) -> NDArray[np.uint8]:
    """Decode to (H, W, channels) uint8, RGB or grey, upright; of several frames or pages the first.

    Ordinary files of 8 bits take a short way: Pillow, and for colour JPEGs torchvision, which gives the same pixels in two
    thirds of the time (docs/benchmarks.md). All else is what :func:`upsr.data.photo_reader.read_photo` makes of it, with 16
    bits scaled to 8.

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


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) of an encoded image, upright, from its header.

    Raises:
        UnreadableImageError: it has none.
    """
    return read_size(data, name)


def decode_region(data: bytes, channels: int, name: str, top: int, left: int, size: int) -> NDArray[np.uint8]:
    """(size, size, channels) uint8: a square part of what :func:`decode_image` gives.

    Large colour PNGs are decoded down to the last row that is needed, and only as far as that.

    Raises:
        UnreadableImageError: the bytes are no whole image.
    """
    if channels == 3 and len(data) > _LARGE_PNG and _is_plain_png(data) and vips_works_here():
        with refusing(name):
            image = vips().Image.pngload_buffer(data, access="sequential", fail_on="truncated")
            return image.crop(left, top, size, size).numpy()
    return decode_image(data, channels, name)[top : top + size, left : left + size]


def _decode_plain(data: bytes, channels: int) -> NDArray[np.uint8] | None:
    """The image of an ordinary file; ``None`` for any other, and for damaged ones, of which the reader says what is wrong."""
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
                pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                image = decode_jpeg(pixels, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
            else:
                image = _with_channels(file, channels)
            return image if orientation == 1 else upright(image, orientation)
    return None


def _plain_png(file: Image.Image, data: bytes) -> int | None:
    facts = png_chunks.read_facts(data)
    plain = facts.ends and facts.bits <= 8 and not facts.alpha and facts.frames == 1
    return facts.orientation if plain else None


def _plain_tiff(file: Image.Image, data: bytes) -> int | None:
    page = tiff_tags.read_pages(data)[0]
    plain = (page.number, page.bits, page.sample_format, page.channels) == (0, 8, 1, page.colours)
    # Pillow turns TIFFs itself, and by rules of its own.
    return 1 if plain and page.orientation == 1 and page.photometric <= 2 and file.mode in ("L", "RGB") else None


def _plain_other(file: Image.Image, data: bytes) -> int | None:
    plain = file.mode in ("L", "RGB") and "transparency" not in file.info
    return orientation_of(file.info.get("exif"), file.info.get("xmp")) if plain else None


_PLAIN = {"PNG": _plain_png, "JPEG": _plain_other, "WEBP": _plain_other, "TIFF": _plain_tiff}
"""The orientation of a file of 8 bits, grey or RGB, by its header; ``None`` if it is something else."""


def _with_channels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(image.height, image.width, channels)


def _is_plain_png(data: bytes) -> bool:
    """Whether it is a whole RGB PNG of 8 bits that needs no turning, by its list of chunks."""
    if data[:8] != png_chunks.SIGNATURE or data[24:26] != b"\x08\x02":
        return False
    facts = png_chunks.read_facts(data)
    return facts.ends and not facts.alpha and facts.frames == 1 and facts.orientation == 1


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
