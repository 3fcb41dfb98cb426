"""Reads image files of every kind: pixels upright, 16 bit, profiles, EXIF, XMP, texts, animations and pages.

Everything that reads a photo, whether to train on, to measure or to upscale, comes here. libvips decodes; Pillow is asked for
what it does not know, and never where Pillow would run another program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from upsr.data import heif_and_jxl, png_chunks, tiff_tags
from upsr.data.heif_decoders import read_avif, read_heic, read_heif, read_jxl, size_of_heic, size_of_jxl
from upsr.data.image_files import CAMERA_RAW_SUFFIXES, HEAD, kind_of
from upsr.data.metadata import (
    upright_size,
)
from upsr.data.photo import Photo
from upsr.data.pillow_decoders import is_known_to_pillow, read_with_pillow, size_with_pillow
from upsr.data.reading_process import read_in_other_process
from upsr.data.refusals import refusal, refusing
from upsr.data.vips_decoders import read_gif, read_jpeg, read_png, read_tiff, read_webp
from upsr.data.vips_library import vips_works_here

_LEAD = 64
"""Bytes before a JPEG or PNG that are passed over: scripts that send pictures put a line before them."""


def read_photo(source: Path | bytes, name: str, *, max_pixels: int) -> Photo:
    """Decode a photo: all frames of an animation, all pages of a TIFF that are alike, else the first picture.

    Palettes become RGB, CMYK becomes sRGB, one bit becomes 8-bit grey; 16 bits stay. Orientation is applied. ``notes`` says
    what was left out or made up for.

    Args:
        name: what the message calls it.
        max_pixels: largest number of pixels, over all frames; compared before anything is decoded.

    Raises:
        UnreadableImageError: it is no whole photo, or not of a kind that is read here, or too large.
    """
    with refusing(name):
        data = source if isinstance(source, bytes) else source.read_bytes()
        _check(data, name)
        if not vips_works_here():
            photo: Photo = read_in_other_process(data, name, max_pixels)
            return photo
        data, notes = _without_lead(data)
        read = _READERS.get(kind_of(data[:HEAD]) or "", read_with_pillow)
        photo = read(data, name, max_pixels)
        return replace(photo, notes=(*notes, *photo.notes)) if notes else photo


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) of an encoded photo, upright, from its header.

    Raises:
        UnreadableImageError: it has none.
    """
    with refusing(name):
        _check(data, name)
        data, _ = _without_lead(data)
        return _SIZES.get(kind_of(data[:HEAD]) or "", size_with_pillow)(data)


def _check(data: bytes, name: str) -> None:
    if not data:
        raise refusal(name, "the file is empty")
    if Path(name).suffix.lower() in CAMERA_RAW_SUFFIXES:
        raise refusal(name, "a camera's raw file", "develop it to TIFF or JPEG")


def _without_lead(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A JPEG or PNG without what stands before it."""
    places = [data.find(mark, 1, _LEAD + 8) for mark in (b"\xff\xd8\xff", png_chunks.SIGNATURE)]
    found = [place for place in places if place > 0]
    if not found or kind_of(data[:HEAD]) is not None or is_known_to_pillow(data):
        return data, ()
    return data[min(found) :], (f"{min(found)} bytes before the picture were passed over",)


def _size_of_png(data: bytes) -> tuple[int, int]:
    facts = png_chunks.read_facts(data)
    return upright_size(facts.height, facts.width, facts.orientation)


def _size_of_tiff(data: bytes) -> tuple[int, int]:
    page = tiff_tags.read_pages(data)[0]
    return upright_size(page.height, page.width, page.orientation)


_READERS: dict[str, Callable[[bytes, str, int], Photo]] = {
    "PNG": read_png,
    "JPEG": read_jpeg,
    "WEBP": read_webp,
    "TIFF": read_tiff,
    "AVIF": read_avif,
    "GIF": read_gif,
    "HEIF": read_heif,
    "HEIC": read_heic,
    "JPEG XL": read_jxl,
}


_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "PNG": _size_of_png,
    "TIFF": _size_of_tiff,
    "HEIC": size_of_heic,
    "HEIF": lambda data: (size_with_pillow if heif_and_jxl.holds_av1(data) else size_of_heic)(data),
    "JPEG XL": size_of_jxl,
}
