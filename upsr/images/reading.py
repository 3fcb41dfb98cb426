"""Reads image files of every kind: pixels upright, 16 bit, profiles, EXIF, XMP, texts, animations and pages.

The one reader of photos for training, measuring and upscaling. libvips decodes what it knows; Pillow decodes the rest, never
where it would run another program.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import UnidentifiedImageError

from upsr.errors import UpsrError
from upsr.images import heif, jpeg, jxl, pillow, png, tiff, webp_gif
from upsr.images.kinds import CAMERA_RAW_SUFFIXES, HEAD, UnreadableImageError, kind_of, refusal
from upsr.images.photo import Photo
from upsr.images.reading_process import read_in_other_process
from upsr.images.samples import UnclearSamplesError
from upsr.images.vips import vips_works_here

_LEAD = 64
"""Bytes before a JPEG or PNG that are skipped: scripts that send pictures print a line before them."""

_SYSTEM = "system error: "
"""libvips' prefix of the operating system's reasons, such as a full disk."""

_READERS: dict[str, Callable[[bytes, str, int], Photo]] = {
    "PNG": png.read,
    "JPEG": jpeg.read,
    "WEBP": webp_gif.read_webp,
    "TIFF": tiff.read,
    "AVIF": heif.read_avif,
    "GIF": webp_gif.read_gif,
    "HEIF": heif.read_heif,
    "HEIC": heif.read_heic,
    "JPEG XL": jxl.read,
}
_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "PNG": png.size,
    "TIFF": tiff.size,
    "HEIC": heif.heic_size,
    "HEIF": heif.heif_size,
    "JPEG XL": jxl.size,
}


def read_photo(source: Path | bytes, name: str, *, max_pixels: int) -> Photo:
    """Decode a photo: all frames of an animation, all pages of a TIFF with one layout, else the first picture.

    Palettes become RGB, CMYK becomes sRGB, one bit becomes 8-bit grey; 16 bits stay. Orientation is applied.

    Args:
        name: the file's name in messages.
        max_pixels: largest number of pixels over all frames, checked before decoding.

    Raises:
        UnreadableImageError: the file is damaged, of an unknown format, or too large.
    """
    with refusing(name):
        data = source if isinstance(source, bytes) else source.read_bytes()
        _check(data, name)
        if not vips_works_here():
            photo: Photo = read_in_other_process(data, name, max_pixels)
            return photo
        data, notes = _without_lead(data)
        photo = _READERS.get(kind_of(data[:HEAD]) or "", pillow.read)(data, name, max_pixels)
        return replace(photo, notes=(*notes, *photo.notes)) if notes else photo


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) of an encoded photo, upright, from its header.

    Raises:
        UnreadableImageError: it has none.
    """
    with refusing(name):
        _check(data, name)
        data, _ = _without_lead(data)
        return _SIZES.get(kind_of(data[:HEAD]) or "", pillow.size)(data)


@contextlib.contextmanager
def refusing(name: str) -> Iterator[None]:
    """Converts decoders' exceptions for damaged files to an :class:`UnreadableImageError` of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UpsrError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise refusal(name, "no photo format that is known here", "choose a JPEG, PNG, WebP, TIFF or AVIF") from None
    except UnclearSamplesError as error:
        raise refusal(name, str(error), "export it with 8 or 16 bits") from None
    except Exception as error:  # damaged files fail in many ways inside the decoders
        if isinstance(error, OSError) and error.errno is not None:  # not one of Pillow's own
            raise UnreadableImageError(f"{name}: cannot be read ({error.strerror})") from None
        raise refusal(name, reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """The most informative line of a message: libvips names the failing function first; the longest other line says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    system = [line.removeprefix(_SYSTEM) for line in lines if line.startswith(_SYSTEM)]
    return system[0] if system else max(lines[1:] or lines, key=len)[:200]


def _check(data: bytes, name: str) -> None:
    if not data:
        raise refusal(name, "the file is empty")
    if Path(name).suffix.lower() in CAMERA_RAW_SUFFIXES:
        raise refusal(name, "a camera's raw file", "develop it to TIFF or JPEG")


def _without_lead(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A JPEG or PNG without the bytes before it, and a note of them."""
    places = [data.find(mark, 1, _LEAD + 8) for mark in (b"\xff\xd8\xff", png.SIGNATURE)]
    found = [place for place in places if place > 0]
    if not found or kind_of(data[:HEAD]) is not None or pillow.knows(data):
        return data, ()
    return data[min(found) :], (f"{min(found)} bytes before the picture were passed over",)
