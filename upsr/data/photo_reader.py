"""Reads image files of every kind: pixels upright, 16 bit, profiles, EXIF, XMP, texts, animations and pages.

Everything that reads a photo, whether to train on, to measure or to upscale, comes here. libvips decodes; Pillow is asked for
what it does not know, and never where Pillow would run another program.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from upsr.data import heif_and_jxl, jpeg_segments, png_chunks, tiff_tags
from upsr.data.image_files import CAMERA_RAW_SUFFIXES, HEAD, UnreadableImageError, kind_of
from upsr.data.metadata import (
    iptc_of_photoshop,
    neutral_exif,
    neutral_xmp,
    orientation_of,
    positive,
    resolution_of,
    upright,
    upright_size,
)
from upsr.data.photo import Frame, Photo
from upsr.data.reading_process import read_in_other_process
from upsr.data.samples import UnclearSamplesError, to_integers, widened
from upsr.data.vips_library import vips, vips_works_here
from upsr.errors import UpsrError

_PILLOW_FORMATS = ("BMP", "DIB", "PPM", "ICO", "ICNS", "JPEG2000", "PCX", "PSD", "QOI", "SGI", "TGA", "DDS")
"""Pixels only: Pillow would run other programs for some of the rest."""

_INTERPRETATIONS = ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "cmyk")
_LEAD = 64
"""Bytes before a JPEG or PNG that are passed over: scripts that send pictures put a line before them."""

_MOST_EXTRA = 2
"""Channels beside the colours; with more of them it is no photo."""

_JPEG_END = b"\xff\xd9"


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
        read = _READERS.get(kind_of(data[:HEAD]) or "", _read_with_pillow)
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
        return _SIZES.get(kind_of(data[:HEAD]) or "", _size_with_pillow)(data)


@contextlib.contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turns what decoders say of a damaged file into one line, the same for every attempt."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UpsrError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _refusal(name, "no photo format that is known here", "choose a JPEG, PNG, WebP, TIFF or AVIF") from None
    except UnclearSamplesError as error:
        raise _refusal(name, str(error), "export it with 8 or 16 bits") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own
            raise _refusal(name, reason_of(error)) from None
        raise UnreadableImageError(f"{name}: cannot be read ({error.strerror})") from None
    except Exception as error:  # damaged files fail in many ways inside the decoders
        raise _refusal(name, reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """One line of what a library says: libvips' first names its own function, and the longest of the rest tells most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    system = [line.removeprefix(_SYSTEM) for line in lines if line.startswith(_SYSTEM)]
    return system[0] if system else max(lines[1:] or lines, key=len)[:200]


_SYSTEM = "system error: "
"""What libvips puts before the reasons of the operating system, such as a full disk."""


def frame_of_pillow(image: Image.Image) -> Frame:
    """(H, W, C) of a Pillow image of any mode, as it is stored.

    Raises:
        UnclearSamplesError: its samples are of a type whose range is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        return to_integers(np.asarray(image))[..., None]
    colours = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    pixels = np.array(image.convert(colours + "A" if image.has_transparency_data else colours))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _refusal(name: str, reason: str, remedy: str = "export or download it again") -> UnreadableImageError:
    return UnreadableImageError(f"{name}: not a readable image ({reason}); {remedy}")


def _check(data: bytes, name: str) -> None:
    if not data:
        raise _refusal(name, "the file is empty")
    if Path(name).suffix.lower() in CAMERA_RAW_SUFFIXES:
        raise _refusal(name, "a camera's raw file", "develop it to TIFF or JPEG")


def _check_size(name: str, pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise UnreadableImageError(
            f"{name}: {pixels:,} pixels are more than the {max_pixels:,} allowed; scale it down or allow more"
        )


def _without_lead(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A JPEG or PNG without what stands before it."""
    places = [data.find(mark, 1, _LEAD + 8) for mark in (b"\xff\xd8\xff", png_chunks.SIGNATURE)]
    found = [place for place in places if place > 0]
    if not found or kind_of(data[:HEAD]) is not None or _is_known_to_pillow(data):
        return data, ()
    return data[min(found) :], (f"{min(found)} bytes before the picture were passed over",)


def _is_known_to_pillow(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS):
            return True
    except UnidentifiedImageError:
        return False


def _photo(frames: Iterable[NDArray[Any]], kind: str, orientation: int = 1, **facts: Any) -> Photo:
    """A photo of frames as they are stored: upright, and what goes with it too."""
    facts["exif"], facts["xmp"] = neutral_exif(facts.get("exif")), neutral_xmp(facts.get("xmp"))
    return Photo(tuple(upright(frame, orientation) for frame in frames), kind, **facts)


# libvips


def _open(data: bytes, loader: str, name: str, max_pixels: int, fail_on: str = "error", **options: Any) -> Any:
    image = getattr(vips().Image, f"{loader}load_buffer")(data, access="sequential", fail_on=fail_on, **options)
    _check_size(name, image.width * image.height, max_pixels)
    return image


def _fact(image: Any, key: str, default: Any = None) -> Any:
    """What libvips has read beside the pixels."""
    return image.get(key) if image.get_typeof(key) else default


def _pixels(image: Any, name: str) -> NDArray[Any]:
    """(H, W, C), grey or RGB, with alpha or without, from what a decoder gave."""
    if image.interpretation not in _INTERPRETATIONS:
        raise _refusal(name, f"colours are {image.interpretation}", "export it as RGB")
    if image.interpretation == "cmyk":
        image = _from_cmyk(image)
    if image.bands > 4:
        raise _refusal(name, f"{image.bands} channels", "export it as RGB")
    return to_integers(image.numpy().reshape(image.height, image.width, -1))


def _from_cmyk(image: Any) -> Any:
    """CMYK (and alpha) to sRGB: by its own profile, or where it has none as Pillow and browsers do."""
    largest = {"uchar": 255, "ushort": 65535}.get(image.format)
    if largest is None:
        raise UnclearSamplesError(f"CMYK of type {image.format}")
    profile = _fact(image, "icc-profile-data", b"")
    if profile[16:20] == b"CMYK":
        depth = 8 if largest == 255 else 16
        return image.icc_transform("srgb", embedded=True, depth=depth, black_point_compensation=True)
    colour = (largest - image.extract_band(0, n=3)) * ((largest - image.extract_band(3)) / largest)
    colour = colour.rint().cast(image.format)
    return colour.bandjoin(image.extract_band(4)) if image.bands > 4 else colour


def _profile(image: Any) -> bytes | None:
    """The profile of the pixels; one of CMYK has been used up."""
    return None if image.interpretation == "cmyk" else _fact(image, "icc-profile-data")


def _moving(image: Any) -> dict[str, Any]:
    """How long the frames are shown, where there are several."""
    if image.height // _fact(image, "page-height", image.height) < 2:
        return {}
    return {"durations": tuple(_fact(image, "delay")), "loop": _fact(image, "loop", 0)}


def _split(pixels: NDArray[Any], image: Any) -> NDArray[Any]:
    """(N, H, W, C) of frames below each other."""
    height = _fact(image, "page-height", image.height)
    return pixels.reshape(-1, height, *pixels.shape[1:])


def _read_png(data: bytes, name: str, max_pixels: int) -> Photo:
    facts = png_chunks.read_facts(data)
    said = {
        "exif": facts.exif, "xmp": facts.xmp, "texts": tuple(facts.texts), "colour": tuple(facts.colour),
        "resolution": facts.resolution or resolution_of(facts.exif),
    }  # fmt: skip
    notes = () if facts.ends else ("the file ends before its end mark",)
    if facts.frames > 1:
        return _read_apng(data, name, max_pixels, facts, said, notes)
    image = _open(data, "png", name, max_pixels)
    return _photo([_pixels(image, name)], "PNG", facts.orientation, icc=_profile(image), notes=notes, **said)


def _read_apng(
    data: bytes, name: str, max_pixels: int, facts: png_chunks.PngFacts, said: dict[str, Any], notes: tuple[str, ...]
) -> Photo:
    """All frames; libvips knows the first alone."""
    mode = ("L" if facts.colours == 1 else "RGB") + ("A" if facts.alpha else "")
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        first = 1 if file.info.get("default_image") else 0  # a picture for those who know no animations
        frames, durations = [], []
        numbers = range(first, getattr(file, "n_frames", 1))
        _check_size(name, facts.width * facts.height * len(numbers), max_pixels)
        for number in numbers:
            file.seek(number)
            file.load()
            frames.append(np.array(file.convert(mode)).reshape(facts.height, facts.width, -1))
            durations.append(round(file.info.get("duration", 100)))
        if facts.bits == 16:
            notes = (*notes, "16 bits of an animation are read as 8")
        moving = {"durations": tuple(durations), "loop": file.info.get("loop", 0)} if len(frames) > 1 else {}
        icc = file.info.get("icc_profile")
    return _photo(frames, "PNG", facts.orientation, icc=icc, notes=notes, **moving, **said)


def _read_jpeg(data: bytes, name: str, max_pixels: int) -> Photo:
    notes: tuple[str, ...] = ()
    try:
        image = _open(data, "jpeg", name, max_pixels)
        pixels = _pixels(image, name)
    except vips().Error:
        if data.endswith(_JPEG_END):
            raise
        # Warnings count here: with an end mark, libjpeg makes grey of whatever else is missing.
        image = _open(data + _JPEG_END, "jpeg", name, max_pixels, fail_on="warning")
        pixels, notes = _pixels(image, name), ("the file ends before its end mark",)
    segments = jpeg_segments.read_facts(data)
    if segments.has_more_pictures:
        notes = (*notes, "the first picture of several was taken")
    exif, xmp = _fact(image, "exif-data"), _fact(image, "xmp-data")
    return _photo(
        [pixels], "JPEG", orientation_of(exif, xmp), icc=_profile(image), exif=exif, xmp=xmp,
        iptc=iptc_of_photoshop(_fact(image, "iptc-data")),
        texts=tuple(("Comment", text) for text in segments.comments),
        resolution=resolution_of(exif) or segments.resolution, notes=notes,
    )  # fmt: skip


def _read_webp(data: bytes, name: str, max_pixels: int) -> Photo:
    image = _open(data, "webp", name, max_pixels, n=-1)
    frames = _split(_without_holes(_pixels(image, name), image), image)
    exif, xmp = _fact(image, "exif-data"), _fact(image, "xmp-data")
    return _photo(
        frames, "WEBP", orientation_of(exif, xmp), icc=_profile(image), exif=exif, xmp=xmp,
        resolution=resolution_of(exif), **_moving(image),
    )  # fmt: skip


def _read_gif(data: bytes, name: str, max_pixels: int) -> Photo:
    if not _gif_has_trailer(data):
        raise _refusal(name, "the file is truncated")
    image = _open(data, "gif", name, max_pixels, n=-1)
    pixels = _pixels(image, name)
    if pixels.shape[-1] % 2 == 0 and pixels[..., -1].min() == 255:
        pixels = pixels[..., :-1]
    with Image.open(io.BytesIO(data), formats=["GIF"]) as file:
        comment, xmp = file.info.get("comment"), file.info.get("xmp")
    texts = (("Comment", comment.decode("utf-8", "surrogateescape")),) if comment else ()
    return _photo(_split(pixels, image), "GIF", icc=_profile(image), xmp=xmp, texts=texts, **_moving(image))


def _without_holes(pixels: NDArray[Any], image: Any) -> NDArray[Any]:
    """Without an alpha channel that only frames had, to be seen through to the frame before."""
    if _moving(image) and pixels.shape[-1] % 2 == 0 and pixels[..., -1].min() == 255:
        return pixels[..., :-1]
    return pixels


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


def _read_tiff(data: bytes, name: str, max_pixels: int) -> Photo:
    pages = tiff_tags.read_pages(data)
    page, notes = pages[0], []
    count = len(pages)
    in_a_row = [page.number + n for n in range(count)] == [other.number for other in pages]
    if count > 1 and not (in_a_row and all(other.layout == page.layout for other in pages)):
        notes.append(f"the first of {count} pages was taken, as they differ in size or kind")
        count = 1
    _check_size(name, page.width * page.height * count, max_pixels)
    if page.bits > _MOST_BITS:
        raise UnclearSamplesError(f"samples of {page.bits} bits")
    image = _open(data, "tiff", name, max_pixels, page=page.number, n=count)
    if page.photometric != _PALETTE and page.channels == image.bands > page.colours:
        image = _meaningful(image, page, name, notes)
    if page.has_colour_tags and _profile(image) is None:
        notes.append("colours are told by tags of their own, which were left out")
    return _photo(
        _split(_pixels(image, name), image), "TIFF", page.orientation, icc=_profile(image), exif=page.exif,
        xmp=_fact(image, "xmp-data"), iptc=page.iptc, resolution=page.resolution,
        notes=tuple(notes),
    )  # fmt: skip


_PALETTE = 3
_MOST_BITS = 32
"""Of samples in a TIFF that libvips reads."""


def _meaningful(image: Any, page: tiff_tags.Page, name: str, notes: list[str]) -> Any:
    """The colours and the alpha of a TIFF, without channels that may mean anything."""
    extra = page.channels - page.colours
    if extra > _MOST_EXTRA:
        raise _refusal(name, f"{page.channels} channels", "export it as RGB")
    kept = list(range(page.colours)) + ([] if page.alpha is None else [page.alpha])
    if len(kept) < page.channels:
        notes.append(f"{page.channels - len(kept)} channel(s) of unspecified meaning left out")
    bands = [image.extract_band(band) for band in kept]
    meaning = "cmyk" if page.colours == 4 else image.interpretation
    return bands[0].bandjoin(bands[1:]).copy(interpretation=meaning) if len(bands) > 1 else bands[0]


def _read_avif(data: bytes, name: str, max_pixels: int) -> Photo:
    if b"avis" in data[8:64] and (moving := _read_avif_sequence(data, name, max_pixels)):
        return moving
    image = _open(data, "heif", name, max_pixels)
    pixels = _pixels(image, name)
    if pixels.dtype == np.uint16:
        pixels = widened(pixels, _fact(image, "heif-bitdepth", 16))
    pages = _fact(image, "n-pages", 1)
    notes = (f"the first of {pages} pictures was taken",) if pages > 1 else ()
    exif = _fact(image, "exif-data")
    return _photo(  # upright already: the container itself says how
        [pixels], "AVIF", icc=_profile(image), exif=exif, xmp=_fact(image, "xmp-data"), resolution=resolution_of(exif),
        colour=heif_and_jxl.colour_of_heif(data) if _profile(image) is None else (), notes=notes,
    )  # fmt: skip


def _read_avif_sequence(data: bytes, name: str, max_pixels: int) -> Photo | None:
    """All frames, which libvips does not know; ``None`` where there is one."""
    with Image.open(io.BytesIO(data), formats=["AVIF"]) as file:
        count = getattr(file, "n_frames", 1)
        if count < 2:
            return None
        _check_size(name, file.width * file.height * count, max_pixels)
        frames, durations = [], []
        for number in range(count):
            file.seek(number)
            file.load()
            frames.append(frame_of_pillow(file))
            durations.append(round(file.info.get("duration", 100)))
        exif = file.info.get("exif")
        facts = {"icc": file.info.get("icc_profile"), "exif": exif, "xmp": file.info.get("xmp")}
    notes = ("more than 8 bits of an animation are read as 8",) if heif_and_jxl.is_deep_avif(data) else ()
    return _photo(
        frames,
        "AVIF",
        orientation_of(exif),
        durations=tuple(durations),
        resolution=resolution_of(exif),
        notes=notes,
        **facts,
    )


# Extras


def _read_heic(data: bytes, name: str, max_pixels: int) -> Photo:
    picture = heif_and_jxl.open_heic(data, name)
    _check_size(name, picture.width * picture.height, max_pixels)
    return _of_extra(picture)


def _read_jxl(data: bytes, name: str, max_pixels: int) -> Photo:
    width, height, _ = heif_and_jxl.jxl_size(data)
    _check_size(name, width * height, max_pixels)
    return _of_extra(heif_and_jxl.open_jxl(data, name))


def _of_extra(picture: heif_and_jxl.Picture) -> Photo:
    return _photo(
        [to_integers(picture.decode())], picture.kind, picture.orientation, icc=picture.icc, exif=picture.exif,
        xmp=picture.xmp, resolution=resolution_of(picture.exif), colour=picture.colour, notes=picture.notes,
    )  # fmt: skip


def _read_heif(data: bytes, name: str, max_pixels: int) -> Photo:
    """A container whose brand does not say what is in it."""
    return (_read_avif if heif_and_jxl.holds_av1(data) else _read_heic)(data, name, max_pixels)


# Pillow


def _read_with_pillow(data: bytes, name: str, max_pixels: int) -> Photo:
    """A photo of a format in ``_PILLOW_FORMATS``."""
    with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as file:
        _check_size(name, file.width * file.height, max_pixels)
        kind = file.format or ""
        sizes = len(getattr(file, "info", {}).get("sizes", ()))
        file.load()
        deep = _deep_colours(data, kind)
        frame = frame_of_pillow(file) if deep is None else deep
        notes = []
        if _bits(data, kind) > 8 and frame.dtype == np.uint8:
            notes.append("more than 8 bits are read as 8")
        if sizes > 1:
            notes.append(f"the largest of {sizes} pictures was taken")
        exif, xmp, dpi = file.info.get("exif"), file.info.get("xmp"), file.info.get("dpi")
        return _photo(
            [frame], kind, orientation_of(exif, xmp), icc=None if file.mode == "CMYK" else file.info.get("icc_profile"),
            exif=exif, xmp=xmp, notes=tuple(notes),
            resolution=resolution_of(exif) or (positive(float(dpi[0]), float(dpi[1])) if dpi else None),
        )  # fmt: skip


def _deep_colours(data: bytes, kind: str) -> NDArray[np.uint16] | None:
    """(H, W, 3) of a PPM with more than 8 bits, of which Pillow keeps 8; ``None`` for any other file."""
    if kind != "PPM" or data[:2] not in (b"P3", b"P6"):
        return None
    words: list[int] = []
    place = 2
    while len(words) < 3:
        while data[place : place + 1].isspace() or data[place : place + 1] == b"#":
            place = data.index(b"\n", place) if data[place : place + 1] == b"#" else place + 1
        end = place
        while data[end : end + 1].isdigit():
            end += 1
        words.append(int(data[place:end]))
        place = end
    width, height, largest = words
    if largest < 256:
        return None
    count = 3 * width * height
    if data[:2] == b"P6":
        samples = np.frombuffer(data, ">u2", count, place + 1)
    else:
        lines = b" ".join(line.partition(b"#")[0] for line in data[place:].splitlines())
        samples = np.array(lines.split()[:count], dtype=np.uint32)
    return np.rint(samples.reshape(height, width, 3) * (65535 / largest)).clip(0, 65535).astype(np.uint16)


def _bits(data: bytes, kind: str) -> int:
    """Of a channel, for formats that Pillow reads with 8 whatever they hold."""
    if kind == "JPEG2000":
        at = data.find(b"\xff\x51")
        return (data[at + 40] & 0x7F) + 1 if 0 <= at < len(data) - 40 else 8
    if kind == "PSD":
        return int.from_bytes(data[22:24], "big")
    return 8 * data[3] if kind == "SGI" else 8


def _size_with_pillow(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "GIF", "AVIF", *_PILLOW_FORMATS)) as file:
        orientation = orientation_of(file.info.get("exif"), file.info.get("xmp"))
        return upright_size(file.height, file.width, orientation)


def _size_of_png(data: bytes) -> tuple[int, int]:
    facts = png_chunks.read_facts(data)
    return upright_size(facts.height, facts.width, facts.orientation)


def _size_of_tiff(data: bytes) -> tuple[int, int]:
    page = tiff_tags.read_pages(data)[0]
    return upright_size(page.height, page.width, page.orientation)


def _size_of_heic(data: bytes) -> tuple[int, int]:
    picture = heif_and_jxl.open_heic(data, "")
    return picture.height, picture.width


def _size_of_jxl(data: bytes) -> tuple[int, int]:
    width, height, orientation = heif_and_jxl.jxl_size(data)
    return upright_size(height, width, orientation)


_READERS: dict[str, Callable[[bytes, str, int], Photo]] = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "WEBP": _read_webp,
    "TIFF": _read_tiff,
    "AVIF": _read_avif,
    "GIF": _read_gif,
    "HEIF": _read_heif,
    "HEIC": _read_heic,
    "JPEG XL": _read_jxl,
}

_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "PNG": _size_of_png,
    "TIFF": _size_of_tiff,
    "HEIC": _size_of_heic,
    "HEIF": lambda data: (_size_with_pillow if heif_and_jxl.holds_av1(data) else _size_of_heic)(data),
    "JPEG XL": _size_of_jxl,
}
