"""Writes photos in every common format with all they carry: 16 bit, profile, EXIF, XMP, texts, resolution, animations, pages.

libvips writes; Pillow writes BMP, and animations of PNG and AVIF. What neither writes is inserted into the finished file.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upsr.atomic import atomic_write
from upsr.choices import QUALITY
from upsr.errors import UpsrError
from upsr.images import jpeg, png, tiff, webp_gif
from upsr.images.metadata import photoshop_of_iptc
from upsr.images.photo import Frame, Photo, text_bytes
from upsr.images.reading import reason_of
from upsr.images.samples import to_eight_bit
from upsr.images.vips import vips

WRITABLE_SUFFIXES: dict[str, str] = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".jif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".avifs": "AVIF",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
}

_USUAL_DPI = 72.0
_MM_PER_INCH = 25.4
_ALL_TEXTS = ("*",)


@dataclass(frozen=True)
class _Encoding:
    """libvips' operation and options for a format, and the limits of the format.

    Attributes:
        moving, pages: several frames can be an animation, or pages.
        by_pillow: Pillow writes animations.
        keeps: names of the metadata that the format holds.
        texts: keywords of the texts that it holds; "*" for any.
        longest_text: bytes of a text at most; ``None`` for any number.
    """

    saver: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    lossy: bool = False
    alpha: bool = True
    sixteen_bit: bool = False
    moving: bool = False
    pages: bool = False
    by_pillow: bool = False
    longest_side: int = 10_000_000
    keeps: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    longest_text: int | None = None


_PROFILE, _EXIF, _XMP, _IPTC, _RESOLUTION, _COLOUR = (
    "colour profile", "EXIF", "XMP", "IPTC", "resolution", "gamma and other colour chunks of PNG"
)  # fmt: skip
_AV1 = 16384
_ENCODINGS = {
    # "sub" is the filter that makes photos a third smaller at half the time of trying all.
    "PNG": _Encoding(
        "pngsave", {"compression": 3, "filter": "sub"}, sixteen_bit=True, moving=True, by_pillow=True,
        keeps=(_PROFILE, _EXIF, _XMP, _RESOLUTION, _COLOUR), texts=_ALL_TEXTS,
    ),
    "JPEG": _Encoding(
        "jpegsave", lossy=True, alpha=False, longest_side=65500,
        keeps=(_PROFILE, _EXIF, _XMP, _IPTC, _RESOLUTION), texts=("Comment",), longest_text=jpeg.LARGEST_SEGMENT,
    ),
    "WEBP": _Encoding(
        "webpsave", lossy=True, moving=True, longest_side=16383, keeps=(_PROFILE, _EXIF, _XMP, _RESOLUTION),
    ),
    "TIFF": _Encoding(
        "tiffsave", {"compression": "deflate", "predictor": "horizontal", "resunit": "inch"}, sixteen_bit=True, pages=True,
        keeps=(_PROFILE, _EXIF, _XMP, _IPTC, _RESOLUTION),
    ),
    # Less effort than libvips' own choice: a tenth of the time for the same size.
    "AVIF": _Encoding(
        "heifsave", {"compression": "av1", "effort": 2}, lossy=True, sixteen_bit=True, moving=True, by_pillow=True,
        longest_side=_AV1, keeps=(_PROFILE, _EXIF, _XMP, _RESOLUTION),
    ),
    "GIF": _Encoding("gifsave", moving=True, longest_side=65535, texts=("Comment",)),
    "BMP": _Encoding(None, alpha=False, longest_side=65535, keeps=(_RESOLUTION,)),
}  # fmt: skip
_TYPES: dict[str, np.dtype[Any]] = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}


def write_photo(path: Path, photo: Photo, *, quality: int = QUALITY) -> tuple[str, ...]:
    """Write a photo in the format of the suffix of ``path``; a failure leaves no file.

    The same photo gives the same bytes.

    Args:
        quality: of JPEG, WebP and AVIF, from 1 to 100.

    Returns:
        A phrase for everything that the format cannot hold and that was left out; alpha is composited on white.

    Raises:
        UpsrError: the format cannot hold the photo, or the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    kind, encoding = _encoding_for(path, photo, quality)
    moving = len(photo.frames) > 1 and encoding.by_pillow
    save = _save_with_pillow if encoding.saver is None or moving else _save_with_vips
    try:
        with atomic_write(path) as temporary:
            save(temporary, kind, photo, encoding, quality)
            if kind in _ADDITIONS:
                _insert(temporary, _ADDITIONS[kind], photo)
            if kind == "TIFF":
                tiff.add_tags(temporary, photo)
    except vips().Error as error:  # for a full disk, among others
        raise UpsrError(f"{path}: cannot be written ({reason_of(error)})") from None
    return tuple(f"{loss} left out: {kind} does not hold it" for loss in _losses(photo, encoding, moving))


def suffix_for(photo: Photo) -> str:
    """The suffix of a photo's format; ".png" for a format that is only read."""
    return next((suffix for suffix, kind in WRITABLE_SUFFIXES.items() if kind == photo.format), ".png")


def takes_quality(path: Path) -> bool:
    """True for a format with a quality setting."""
    return _ENCODINGS[WRITABLE_SUFFIXES[path.suffix.lower()]].lossy


def changed_values(path: Path) -> str | None:
    """A phrase on values that the format of ``path`` does not keep within a grey level; ``None`` where it keeps all."""
    kind = WRITABLE_SUFFIXES[path.suffix.lower()]
    if not _ENCODINGS[kind].lossy and kind != "GIF":
        return None
    return f"{kind} changes values; the formats png and tif keep them"


def check_writable(path: Path, photo: Photo, size: tuple[int, int]) -> None:
    """Checks before any work that :func:`write_photo` will take the result.

    Args:
        photo: the photo before upscaling.
        size: (height, width) of the result.

    Raises:
        UpsrError: the format of ``path`` cannot hold such a result.
    """
    empty = tuple(np.broadcast_to(frame[:1, :1], (*size, frame.shape[-1])) for frame in photo.frames)
    _encoding_for(path, replace(photo, frames=empty), 95)


def _encoding_for(path: Path, photo: Photo, quality: int) -> tuple[str, _Encoding]:
    """The format of ``path`` and its encoding.

    Raises:
        UpsrError: the format cannot hold the photo.
    """
    kind = WRITABLE_SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UpsrError(f"{path}: no photo format is named {path.suffix!r}; use one of {', '.join(WRITABLE_SUFFIXES)}")
    encoding = _ENCODINGS[kind]
    if not 1 <= quality <= 100:
        raise UpsrError(f"{path}: quality {quality} is not between 1 and 100")
    count = len(photo.frames)
    if count > 1 and photo.durations and not encoding.moving:
        raise UpsrError(f"{path}: {kind} holds no animation of {count} frames; use .webp, .gif or .png")
    if count > 1 and not photo.durations and not encoding.pages:
        raise UpsrError(f"{path}: {kind} holds one picture, not {count} pages; use .tif")
    longest = max(photo.frames[0].shape[:2])
    if longest > encoding.longest_side:
        raise UpsrError(f"{path}: {kind} holds {encoding.longest_side} pixels a side, not {longest}; use .png or .tif")
    return kind, encoding


def _losses(photo: Photo, encoding: _Encoding, moving: bool) -> list[str]:
    carried = {
        _PROFILE: photo.icc, _EXIF: photo.exif, _XMP: photo.xmp, _IPTC: photo.iptc, _RESOLUTION: photo.resolution,
        _COLOUR: photo.colour if _has_meaning(photo) else (),
    }  # fmt: skip
    losses = [name for name, content in carried.items() if content and name not in encoding.keeps]
    if encoding.texts != _ALL_TEXTS:
        losses += [f"text '{key[:40]}'" for key, text in photo.texts if not _holds_text(encoding, key, text)]
    first = photo.frames[0]
    if not encoding.alpha and any(frame.shape[-1] % 2 == 0 and frame[..., -1].min() < 255 for frame in photo.frames):
        losses.append("transparency")
    if first.dtype == np.uint16 and (moving or not encoding.sixteen_bit):
        losses.append("more than 8 bits")
    return losses


def _holds_text(encoding: _Encoding, keyword: str, text: str) -> bool:
    short = encoding.longest_text is None or len(text_bytes(text)) <= encoding.longest_text
    return keyword in encoding.texts and short


def _has_meaning(photo: Photo) -> bool:
    """True if the colour chunks define another colour space than sRGB or the profile."""
    chunks = dict(photo.colour)
    if b"cICP" in chunks:
        return True
    if photo.icc or b"sRGB" in chunks:
        return False
    return any(_USUAL_COLOUR.get(name, content) != content for name, content in photo.colour)


_USUAL_COLOUR = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}


# libvips


def _save_with_vips(path: Path, kind: str, photo: Photo, encoding: _Encoding, quality: int) -> None:
    image = _fitted(_described(_joined(photo.frames), photo), encoding)
    kept = ["icc", *(["xmp"] if photo.xmp else []), *(["iptc"] if kind == "JPEG" else [])]
    if photo.exif or (photo.resolution and kind in _RESOLUTION_IN_EXIF):
        kept.append("exif")  # libvips would make EXIF of its own for any photo
    options = {**encoding.options, **({"Q": quality} if encoding.lossy else {})}
    if kind == "TIFF":
        options["bigtiff"] = sum(frame.nbytes for frame in photo.frames) > 0xF0000000
    # Bytes: file names need not be UTF-8.
    getattr(image, str(encoding.saver))(os.fsencode(path), keep="|".join(kept), **options)


_RESOLUTION_IN_EXIF = ("WEBP", "AVIF")


def _joined(frames: tuple[Frame, ...]) -> Any:
    """The frames stacked vertically, as libvips stores animations; they share memory with the arrays."""
    height, width, bands = frames[0].shape
    kind = next(kind for kind, dtype in _TYPES.items() if dtype == frames[0].dtype)
    contiguous = [np.ascontiguousarray(frame) for frame in frames]
    images = [vips().Image.new_from_memory(frame.data, width, height, bands, kind) for frame in contiguous]
    return vips().Image.arrayjoin(images, across=1) if len(images) > 1 else images[0]


def _described(image: Any, photo: Photo) -> Any:
    """The image with the meaning of its channels, and its metadata."""
    grey, deep = image.bands < 3, image.format == "ushort"
    meaning = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    across, down = photo.resolution or (_USUAL_DPI, _USUAL_DPI)
    image = image.copy(interpretation=meaning, xres=across / _MM_PER_INCH, yres=down / _MM_PER_INCH)
    types = vips().GValue
    blobs = {
        "icc-profile-data": photo.icc,
        "exif-data": b"Exif\0\0" + photo.exif if photo.exif else None,
        "xmp-data": photo.xmp,
        "iptc-data": photoshop_of_iptc(photo.iptc) if photo.iptc else None,
    }
    for key, content in blobs.items():
        if content:
            image.set_type(types.blob_type, key, content)
    image.set_type(types.gstr_type, "resolution-unit", "in")
    if len(photo.frames) > 1:
        image.set_type(types.gint_type, "page-height", photo.frames[0].shape[0])
    if photo.durations:
        image.set_type(types.array_int_type, "delay", list(photo.durations))
        image.set_type(types.gint_type, "loop", photo.loop)
    return image


def _fitted(image: Any, encoding: _Encoding) -> Any:
    """The image without alpha or 16 bits that the format cannot hold, converted while it streams to the encoder."""
    largest = int(np.iinfo(_TYPES[image.format]).max)
    if not encoding.alpha and image.bands in (2, 4):
        image = image.flatten(background=largest)
    if not encoding.sixteen_bit and image.format == "ushort":
        image = (image / 257).rint().cast("uchar").copy(interpretation="b-w" if image.bands < 3 else "srgb")
    return image


# Pillow


def _save_with_pillow(path: Path, kind: str, photo: Photo, encoding: _Encoding, quality: int) -> None:
    frames = [_eight_bit(frame, encoding) for frame in photo.frames]
    options: dict[str, Any] = {}
    if _RESOLUTION in encoding.keeps:
        options["dpi"] = photo.resolution or (_USUAL_DPI, _USUAL_DPI)
    if len(frames) > 1:
        facts = {"icc_profile": photo.icc, "exif": photo.exif, "xmp": photo.xmp}
        options |= {key: content for key, content in facts.items() if content}
        options |= {
            "save_all": True,
            "append_images": frames[1:],
            "duration": list(photo.durations),
            "loop": photo.loop,
        }
        options |= {"quality": quality} if encoding.lossy else {"compress_level": 3}
    frames[0].save(path, format=kind, **options)


def _eight_bit(frame: Frame, encoding: _Encoding) -> Image.Image:
    frame = to_eight_bit(frame)
    if not encoding.alpha and frame.shape[-1] % 2 == 0:
        frame = vips().Image.new_from_array(frame).flatten(background=255).numpy()
        frame = frame if frame.ndim == 3 else frame[..., None]
    return Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)


# Insertions


def _insert(path: Path, additions: _Additions, photo: Photo) -> None:
    """Insert into a written file what a format's ``additions`` gives, at ascending positions."""
    with path.open("rb") as before:
        found = [(place, content) for place, content in additions(before.read(1 << 20), photo) if content]
        if not found:
            return
        before.seek(0)
        with atomic_write(path) as temporary, temporary.open("wb") as after:
            for place, content in found:
                after.write(before.read(place - before.tell()) + content)
            shutil.copyfileobj(before, after, 1 << 20)


_Additions = Callable[[bytes, Photo], list[tuple[int, bytes]]]
_ADDITIONS: dict[str, _Additions] = {
    "PNG": png.additions,
    "JPEG": jpeg.additions,
    "GIF": webp_gif.gif_additions,
}
