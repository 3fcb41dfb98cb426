"""Photos between files and :class:`Photo`: every common format, 16 bit, colour profiles, EXIF and animations.

libvips reads and writes them. Pillow is asked for what libvips does not know: BMP, and formats that are only read.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from upsr.atomic import atomic_write
from upsr.data.image_io import UnreadableImageError
from upsr.errors import UpsrError
from upsr.inference.photo import Frame, Photo

WRITABLE_SUFFIXES: dict[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".gif": "GIF",
    ".bmp": "BMP",
}

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"GIF8", "GIF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftypmif1", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftyphevc", "HEIC"),
    (4, b"JXL \r\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
)
"""Where a file says what it is. Named loaders, not libvips' own guess, which includes SVG and HDR variants of JPEG."""

_LOADERS = {
    "PNG": "pngload_buffer",
    "JPEG": "jpegload_buffer",
    "WEBP": "webpload_buffer",
    "TIFF": "tiffload_buffer",
    "AVIF": "heifload_buffer",
    "GIF": "gifload_buffer",
}
_ANIMATED = ("GIF", "WEBP")
_CAMERA_RAW = frozenset({".dng", ".nef", ".cr2", ".arw", ".orf", ".rw2", ".pef", ".srw"})
"""TIFFs whose first picture is a thumbnail."""

_PILLOW_FORMATS = ("BMP", "DIB", "PPM", "ICO", "ICNS", "JPEG2000", "PCX", "PSD", "QOI", "SGI", "TGA", "DDS")
"""Pixels only: Pillow would run other programs for some of the rest."""

_INTERPRETATIONS = ("b-w", "grey16", "srgb", "rgb", "rgb16", "cmyk")
_TYPES: dict[str, np.dtype[Any]] = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}

_SYSTEM = "system error: "
"""What libvips puts before the reasons of the operating system, such as a full disk."""

_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[Frame], Frame]] = {
    2: lambda frame: frame[:, ::-1],
    3: lambda frame: frame[::-1, ::-1],
    4: lambda frame: frame[::-1],
    5: lambda frame: frame.swapaxes(0, 1),
    6: lambda frame: frame.swapaxes(0, 1)[:, ::-1],
    7: lambda frame: frame.swapaxes(0, 1)[::-1, ::-1],
    8: lambda frame: frame.swapaxes(0, 1)[::-1],
}

_RESOLUTION, _RESOLUTION_UNIT = 0x011A, 0x0128
_MM_PER_UNIT = {2: 25.4, 3: 10.0}


@dataclass(frozen=True)
class _Encoding:
    """How a format is written: libvips' operation with its options, and what the format can hold."""

    saver: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    lossy: bool = False
    alpha: bool = True
    sixteen_bit: bool = False
    animated: bool = False
    longest_side: int = 10_000_000


_AV1 = 16384
_ENCODINGS = {
    # "sub" is the filter that makes photos a third smaller at half the time of trying all.
    "PNG": _Encoding("pngsave", {"compression": 3, "filter": "sub"}, sixteen_bit=True),
    "JPEG": _Encoding("jpegsave", lossy=True, alpha=False, longest_side=65500),
    "WEBP": _Encoding("webpsave", lossy=True, animated=True, longest_side=16383),
    "TIFF": _Encoding("tiffsave", {"compression": "deflate", "predictor": "horizontal"}, sixteen_bit=True),
    # Less effort than libvips' own choice: a tenth of the time for the same size.
    "AVIF": _Encoding("heifsave", {"compression": "av1", "effort": 2}, lossy=True, sixteen_bit=True, longest_side=_AV1),
    "GIF": _Encoding("gifsave", animated=True, longest_side=65535),
    "BMP": _Encoding(None, alpha=False, longest_side=65535),
}


def read_photo(source: Path | bytes, name: str, *, max_pixels: int) -> Photo:
    """Decode a photo: all frames of a GIF or WebP, the first picture of any other file.

    Palettes become RGB, CMYK becomes sRGB, one bit becomes 8-bit grey; 16 bits stay. Orientation is applied.

    Args:
        name: what the message calls it.
        max_pixels: largest number of pixels, over all frames; compared before anything is decoded.

    Raises:
        UnreadableImageError: it is no whole photo, or not of a kind that is read here, or too large.
    """
    with _refusing(name):
        data = source if isinstance(source, bytes) else source.read_bytes()
        if not data:
            raise _refusal(name, "the file is empty")
        if Path(name).suffix.lower() in _CAMERA_RAW:
            raise _refusal(name, "a camera's raw file", "develop it to TIFF or JPEG")
        kind = next((kind for at, mark, kind in _SIGNATURES if data.startswith(mark, at)), None)
        if kind is None:
            return _read_with_pillow(data, name, max_pixels)
        if kind not in _LOADERS:
            raise _refusal(name, f"{kind} cannot be decoded here", "export it as JPEG or PNG")
        return _read_with_vips(data, kind, name, max_pixels)


def write_photo(path: Path, photo: Photo, *, quality: int = 95) -> None:
    """Write a photo, whole or not at all, in the format that the suffix of ``path`` names.

    The same photo gives the same bytes. What a format cannot hold is left out: alpha (onto white) in JPEG and BMP, more
    than 8 bits in all but PNG, TIFF and AVIF (12), colour profile in GIF and BMP, EXIF in these and TIFF.

    Args:
        quality: of JPEG, WebP and AVIF, from 1 to 100.

    Raises:
        UpsrError: the format cannot hold the photo, or the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    encoding = _encoding_for(path, photo, quality)
    pyvips = _pyvips()
    try:
        with atomic_write(path) as temporary:
            image = _fitted(_described(_joined(photo.frames), photo), encoding)
            if encoding.saver is None:
                Image.fromarray(image.numpy()).save(temporary, format="BMP")
                return
            keep = "icc|exif" if photo.exif else "icc"  # asked for EXIF, libvips makes some of its own
            options = {**encoding.options, **({"Q": quality} if encoding.lossy else {})}
            if encoding.saver == "tiffsave":
                options["bigtiff"] = sum(frame.nbytes for frame in photo.frames) > 0xF0000000
            # As bytes, since names need not be UTF-8.
            getattr(image, encoding.saver)(os.fsencode(temporary), keep=keep, **options)
    except pyvips.Error as error:  # the encoders' word for a full disk, among others
        raise UpsrError(f"{path}: cannot be written ({_reason(error)})") from None


def suffix_for(photo: Photo) -> str:
    """The suffix that keeps a photo's format; ".png" where that is only read."""
    return next((suffix for suffix, kind in WRITABLE_SUFFIXES.items() if kind == photo.format), ".png")


def takes_quality(path: Path) -> bool:
    """Whether the format of ``path`` is written with a quality."""
    return _ENCODINGS[WRITABLE_SUFFIXES[path.suffix.lower()]].lossy


def check_writable(path: Path, photo: Photo, size: tuple[int, int]) -> None:
    """Refuse before any work what :func:`write_photo` would refuse after it.

    Args:
        photo: what the result is made of.
        size: (height, width) of the result.

    Raises:
        UpsrError: the format of ``path`` cannot hold such a result.
    """
    empty = tuple(np.broadcast_to(frame[:1, :1], (*size, frame.shape[-1])) for frame in photo.frames)
    _encoding_for(path, replace(photo, frames=empty), 95)


def _pyvips() -> Any:
    """The library. Imported when it is needed, as it takes a while; what it warns of is no concern of our users."""
    import pyvips

    logging.getLogger("pyvips").setLevel(logging.ERROR)
    return pyvips


def _refusal(name: str, reason: str, remedy: str = "export or download it again") -> UnreadableImageError:
    return UnreadableImageError(f"{name}: not a readable photo ({reason}); {remedy}")


def _reason(error: Exception) -> str:
    """One line of what a library says: libvips' first names its own function, and the longest of the rest tells most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    system = [line.removeprefix(_SYSTEM) for line in lines if line.startswith(_SYSTEM)]
    return system[0] if system else max(lines[1:] or lines, key=len)[:200]


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turns what decoders say of a damaged file into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UpsrError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _refusal(name, "no photo format that is known here", "choose a JPEG, PNG, WebP, TIFF or AVIF") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own
            raise _refusal(name, _reason(error)) from None
        raise UnreadableImageError(f"{name}: cannot be read ({error.strerror})") from None
    except Exception as error:  # damaged files fail in many ways inside the decoders
        raise _refusal(name, _reason(error)) from None


def _check_size(name: str, pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise UnreadableImageError(
            f"{name}: {pixels:,} pixels are more than the {max_pixels:,} allowed; scale it down or allow more"
        )


def _read_with_vips(data: bytes, kind: str, name: str, max_pixels: int) -> Photo:
    """A photo of a format in ``_LOADERS``."""
    if not _is_whole(data, kind):
        raise _refusal(name, "the file is truncated")
    pages = {"n": -1} if kind in _ANIMATED else {}
    image = getattr(_pyvips().Image, _LOADERS[kind])(data, access="sequential", fail_on="error", **pages)
    _check_size(name, image.width * image.height, max_pixels)
    icc = None if image.interpretation == "cmyk" else _fact(image, "icc-profile-data")
    pixels = _as_rgb(image, name).numpy().reshape(image.height, image.width, -1)
    count = image.height // _fact(image, "page-height", image.height)
    moving = {"durations": tuple(_fact(image, "delay")), "loop": _fact(image, "loop", 0)} if count > 1 else {}
    if (moving or kind == "GIF") and image.bands % 2 == 0 and pixels[..., -1].min() == 255:
        pixels = pixels[..., :-1]  # only frames had holes, seen through to the frame before
    frames = pixels.reshape(count, -1, *pixels.shape[1:])
    exif = _neutral(_fact(image, "exif-data"))
    return Photo(_upright(frames, _fact(image, "orientation", 1)), kind, icc, exif, **moving)


def _fact(image: Any, key: str, default: Any = None) -> Any:
    """What libvips has read beside the pixels."""
    return image.get(key) if image.get_typeof(key) else default


def _read_with_pillow(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a format in ``_PILLOW_FORMATS``."""
    with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as file:
        _check_size(name, file.width * file.height, max_pixels)
        file.load()
        if file.mode == "F":
            raise _refusal(name, "samples of type float", "export it with 8 or 16 bits")
        if file.mode.startswith("I"):
            pixels = np.asarray(file).clip(0, 65535).astype(np.uint16)
        else:
            colours = "L" if file.mode in ("1", "L", "LA", "La") else "RGB"
            pixels = np.array(file.convert(colours + "A" if file.has_transparency_data else colours))
        icc = None if file.mode == "CMYK" else file.info.get("icc_profile")
        frames = pixels.reshape(1, file.height, file.width, -1)
        orientation = file.getexif().get(_ORIENTATION, 1)
        return Photo(_upright(frames, orientation), file.format or "", icc, _neutral(file.info.get("exif")))


def _as_rgb(image: Any, name: str) -> Any:
    """A libvips image with 1 to 4 channels of 8 or 16 bits, grey or RGB, from what a decoder gave."""
    if image.format not in _TYPES:
        raise _refusal(name, f"samples of type {image.format}", "export it with 8 or 16 bits")
    if image.interpretation not in _INTERPRETATIONS:
        raise _refusal(name, f"colours are {image.interpretation}", "export it as RGB")
    if image.interpretation == "cmyk":
        image = _from_cmyk(image)
    if image.bands > 4:
        raise _refusal(name, f"{image.bands} channels", "export it as RGB")
    return image


def _from_cmyk(image: Any) -> Any:
    """CMYK (and alpha) to sRGB: by its own profile, or where it has none as Pillow and browsers do."""
    profile = _fact(image, "icc-profile-data", b"")
    if profile[16:20] == b"CMYK":
        depth = 8 * _TYPES[image.format].itemsize
        return image.icc_transform("srgb", embedded=True, depth=depth, black_point_compensation=True)
    largest = int(np.iinfo(_TYPES[image.format]).max)
    colour = (largest - image.extract_band(0, n=3)) * ((largest - image.extract_band(3)) / largest)
    colour = colour.rint().cast(image.format)
    return colour.bandjoin(image.extract_band(4)) if image.bands > 4 else colour


def _upright(frames: Frame, orientation: int) -> tuple[Frame, ...]:
    """(N, H, W, C) as it is stored -> N frames as they are looked at."""
    turned = _UPRIGHT.get(orientation, lambda frame: frame)
    return tuple(np.ascontiguousarray(turned(frame)) for frame in frames)


def _is_whole(data: bytes, kind: str) -> bool:
    """Whether the end of the file is there, for formats whose decoder does without it."""
    if kind == "PNG":
        return data.rfind(b"IEND\xaeB`\x82") > 0
    return _gif_has_trailer(data) if kind == "GIF" else True


def _gif_has_trailer(data: bytes) -> bool:
    """Walks the blocks of a GIF: libvips takes one that ends early for an animation with fewer frames."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    try:
        place = 13 + table(data[10])
        while data[place] in (0x21, 0x2C):  # an extension, or a picture
            place += 2 if data[place] == 0x21 else 11 + table(data[place + 9])
            while data[place]:
                place += 1 + data[place]
            place += 1
        return data[place] == 0x3B
    except IndexError:
        return False


def _neutral(exif: bytes | None) -> bytes | None:
    """EXIF for pixels that are upright, changed in place so that makers' notes stay; None if it cannot be parsed.

    Its thumbnail is cut off, as it is neither upright nor the picture that is written.
    """
    data = bytearray((exif or b"").removeprefix(b"Exif\0\0"))
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, first)
        for place in range(first + 2, first + 2 + 12 * entries, 12):
            if struct.unpack_from(f"{order}H", data, place) == (_ORIENTATION,):
                struct.pack_into(f"{order}HIHH", data, place + 2, 3, 1, 1, 0)
        struct.pack_into(f"{order}I", data, first + 2 + 12 * entries, 0)
    except struct.error:
        return None
    return bytes(data)


def _encoding_for(path: Path, photo: Photo, quality: int) -> _Encoding:
    """How ``path`` is written.

    Raises:
        UpsrError: not with this photo.
    """
    kind = WRITABLE_SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UpsrError(f"{path}: no photo format is named {path.suffix!r}; use one of {', '.join(WRITABLE_SUFFIXES)}")
    encoding = _ENCODINGS[kind]
    if not 1 <= quality <= 100:
        raise UpsrError(f"{path}: quality {quality} is not between 1 and 100")
    if len(photo.frames) > 1 and not encoding.animated:
        raise UpsrError(f"{path}: {kind} holds one picture, not an animation of {len(photo.frames)}; use .webp or .gif")
    longest = max(photo.frames[0].shape[:2])
    if longest > encoding.longest_side:
        raise UpsrError(f"{path}: {kind} holds {encoding.longest_side} pixels a side, not {longest}; use .png or .tif")
    return encoding


def _joined(frames: tuple[Frame, ...]) -> Any:
    """The frames below each other, as libvips has animations; their memory is used, not copied."""
    pyvips = _pyvips()
    height, width, bands = frames[0].shape
    kind = next(kind for kind, dtype in _TYPES.items() if dtype == frames[0].dtype)
    contiguous = [np.ascontiguousarray(frame) for frame in frames]
    images = [pyvips.Image.new_from_memory(frame.data, width, height, bands, kind) for frame in contiguous]
    return pyvips.Image.arrayjoin(images, across=1) if len(images) > 1 else images[0]


def _described(image: Any, photo: Photo) -> Any:
    """The image with the meaning of its channels, its profile, EXIF, resolution and timing."""
    pyvips = _pyvips()
    grey, deep = image.bands < 3, image.format == "ushort"
    meaning = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    resolution = _pixels_per_mm(photo.exif)
    image = image.copy(interpretation=meaning, xres=resolution, yres=resolution)
    if photo.icc:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", photo.icc)
    if photo.exif:
        image.set_type(pyvips.GValue.blob_type, "exif-data", b"Exif\0\0" + photo.exif)
    if len(photo.frames) > 1:
        image.set_type(pyvips.GValue.gint_type, "page-height", photo.frames[0].shape[0])
        image.set_type(pyvips.GValue.array_int_type, "delay", list(photo.durations))
        image.set_type(pyvips.GValue.gint_type, "loop", photo.loop)
    return image


def _pixels_per_mm(exif: bytes | None) -> float:
    """Resolution by the EXIF, which libvips would write anew; 72 to the inch, as is usual, where it says nothing."""
    tags = Image.Exif()
    with contextlib.suppress(Exception):  # what it says is of no consequence for the pixels
        tags.load(b"Exif\0\0" + (exif or b""))
        return float(tags[_RESOLUTION]) / _MM_PER_UNIT[tags.get(_RESOLUTION_UNIT, 2)]
    return 72 / 25.4


def _fitted(image: Any, encoding: _Encoding) -> Any:
    """The image with what the format cannot hold taken out, as it streams to the encoder."""
    largest = int(np.iinfo(_TYPES[image.format]).max)
    if not encoding.alpha and image.bands in (2, 4):
        image = image.flatten(background=largest)
    if not encoding.sixteen_bit and image.format == "ushort":
        image = (image / 257).rint().cast("uchar").copy(interpretation="b-w" if image.bands < 3 else "srgb")
    return image
