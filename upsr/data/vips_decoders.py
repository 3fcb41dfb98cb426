"""Photos that libvips decodes: PNG, JPEG, WebP, GIF, TIFF."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upsr.data import jpeg_segments, png_chunks, tiff_tags
from upsr.data.metadata import (
    iptc_of_photoshop,
    neutral_exif,
    neutral_xmp,
    orientation_of,
    resolution_of,
    upright,
)
from upsr.data.photo import Photo
from upsr.data.refusals import check_size, refusal
from upsr.data.samples import UnclearSamplesError, to_integers
from upsr.data.vips_library import vips

_INTERPRETATIONS = ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "cmyk")


_MOST_EXTRA = 2
"""Channels beside the colours; with more of them it is no photo."""


_JPEG_END = b"\xff\xd9"


def photo_of_frames(frames: Iterable[NDArray[Any]], kind: str, orientation: int = 1, **facts: Any) -> Photo:
    """A photo of frames as they are stored: upright, and what goes with it too."""
    facts["exif"], facts["xmp"] = neutral_exif(facts.get("exif")), neutral_xmp(facts.get("xmp"))
    return Photo(tuple(upright(frame, orientation) for frame in frames), kind, **facts)


def opened(data: bytes, loader: str, name: str, max_pixels: int, fail_on: str = "error", **options: Any) -> Any:
    """An image whose header is read; refused if it is larger than ``max_pixels``."""
    image = getattr(vips().Image, f"{loader}load_buffer")(data, access="sequential", fail_on=fail_on, **options)
    check_size(name, image.width * image.height, max_pixels)
    return image


def fact_of(image: Any, key: str, default: Any = None) -> Any:
    """What libvips has read beside the pixels."""
    return image.get(key) if image.get_typeof(key) else default


def pixels_of(image: Any, name: str) -> NDArray[Any]:
    """(H, W, C), grey or RGB, with alpha or without, from what a decoder gave."""
    if image.interpretation not in _INTERPRETATIONS:
        raise refusal(name, f"colours are {image.interpretation}", "export it as RGB")
    if image.interpretation == "cmyk":
        image = _from_cmyk(image)
    if image.bands > 4:
        raise refusal(name, f"{image.bands} channels", "export it as RGB")
    return to_integers(image.numpy().reshape(image.height, image.width, -1))


def _from_cmyk(image: Any) -> Any:
    """CMYK (and alpha) to sRGB: by its own profile, or where it has none as Pillow and browsers do."""
    largest = {"uchar": 255, "ushort": 65535}.get(image.format)
    if largest is None:
        raise UnclearSamplesError(f"CMYK of type {image.format}")
    profile = fact_of(image, "icc-profile-data", b"")
    if profile[16:20] == b"CMYK":
        depth = 8 if largest == 255 else 16
        return image.icc_transform("srgb", embedded=True, depth=depth, black_point_compensation=True)
    colour = (largest - image.extract_band(0, n=3)) * ((largest - image.extract_band(3)) / largest)
    colour = colour.rint().cast(image.format)
    return colour.bandjoin(image.extract_band(4)) if image.bands > 4 else colour


def profile_of(image: Any) -> bytes | None:
    """The profile of the pixels; one of CMYK has been used up."""
    return None if image.interpretation == "cmyk" else fact_of(image, "icc-profile-data")


def _moving(image: Any) -> dict[str, Any]:
    """How long the frames are shown, where there are several."""
    if image.height // fact_of(image, "page-height", image.height) < 2:
        return {}
    return {"durations": tuple(fact_of(image, "delay")), "loop": fact_of(image, "loop", 0)}


def _split(pixels: NDArray[Any], image: Any) -> NDArray[Any]:
    """(N, H, W, C) of frames below each other."""
    height = fact_of(image, "page-height", image.height)
    return pixels.reshape(-1, height, *pixels.shape[1:])


def read_png(data: bytes, name: str, max_pixels: int) -> Photo:
    """A PNG or APNG."""
    facts = png_chunks.read_facts(data)
    said = {
        "exif": facts.exif, "xmp": facts.xmp, "texts": tuple(facts.texts), "colour": tuple(facts.colour),
        "resolution": facts.resolution or resolution_of(facts.exif),
    }  # fmt: skip
    notes = () if facts.ends else ("the file ends before its end mark",)
    if facts.frames > 1:
        return _read_apng(data, name, max_pixels, facts, said, notes)
    image = opened(data, "png", name, max_pixels)
    return photo_of_frames(
        [pixels_of(image, name)], "PNG", facts.orientation, icc=profile_of(image), notes=notes, **said
    )


def _read_apng(
    data: bytes, name: str, max_pixels: int, facts: png_chunks.PngFacts, said: dict[str, Any], notes: tuple[str, ...]
) -> Photo:
    """All frames; libvips knows the first alone."""
    mode = ("L" if facts.colours == 1 else "RGB") + ("A" if facts.alpha else "")
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        first = 1 if file.info.get("default_image") else 0  # a picture for those who know no animations
        frames, durations = [], []
        numbers = range(first, getattr(file, "n_frames", 1))
        check_size(name, facts.width * facts.height * len(numbers), max_pixels)
        for number in numbers:
            file.seek(number)
            file.load()
            frames.append(np.array(file.convert(mode)).reshape(facts.height, facts.width, -1))
            durations.append(round(file.info.get("duration", 100)))
        if facts.bits == 16:
            notes = (*notes, "16 bits of an animation are read as 8")
        moving = {"durations": tuple(durations), "loop": file.info.get("loop", 0)} if len(frames) > 1 else {}
        icc = file.info.get("icc_profile")
    return photo_of_frames(frames, "PNG", facts.orientation, icc=icc, notes=notes, **moving, **said)


def read_jpeg(data: bytes, name: str, max_pixels: int) -> Photo:
    """A JPEG; data cut off is refused."""
    notes: tuple[str, ...] = ()
    try:
        image = opened(data, "jpeg", name, max_pixels)
        pixels = pixels_of(image, name)
    except vips().Error:
        if data.endswith(_JPEG_END):
            raise
        # Warnings count here: with an end mark, libjpeg makes grey of whatever else is missing.
        image = opened(data + _JPEG_END, "jpeg", name, max_pixels, fail_on="warning")
        pixels, notes = pixels_of(image, name), ("the file ends before its end mark",)
    segments = jpeg_segments.read_facts(data)
    if segments.has_more_pictures:
        notes = (*notes, "the first picture of several was taken")
    exif, xmp = fact_of(image, "exif-data"), fact_of(image, "xmp-data")
    return photo_of_frames(
        [pixels], "JPEG", orientation_of(exif, xmp), icc=profile_of(image), exif=exif, xmp=xmp,
        iptc=iptc_of_photoshop(fact_of(image, "iptc-data")),
        texts=tuple(("Comment", text) for text in segments.comments),
        resolution=resolution_of(exif) or segments.resolution, notes=notes,
    )  # fmt: skip


def read_webp(data: bytes, name: str, max_pixels: int) -> Photo:
    """A WebP, still or moving."""
    image = opened(data, "webp", name, max_pixels, n=-1)
    frames = _split(_without_holes(pixels_of(image, name), image), image)
    exif, xmp = fact_of(image, "exif-data"), fact_of(image, "xmp-data")
    return photo_of_frames(
        frames, "WEBP", orientation_of(exif, xmp), icc=profile_of(image), exif=exif, xmp=xmp,
        resolution=resolution_of(exif), **_moving(image),
    )  # fmt: skip


def read_gif(data: bytes, name: str, max_pixels: int) -> Photo:
    """A GIF, still or moving."""
    if not _gif_has_trailer(data):
        raise refusal(name, "the file is truncated")
    image = opened(data, "gif", name, max_pixels, n=-1)
    pixels = pixels_of(image, name)
    if pixels.shape[-1] % 2 == 0 and pixels[..., -1].min() == 255:
        pixels = pixels[..., :-1]
    with Image.open(io.BytesIO(data), formats=["GIF"]) as file:
        comment, xmp = file.info.get("comment"), file.info.get("xmp")
    texts = (("Comment", comment.decode("utf-8", "surrogateescape")),) if comment else ()
    return photo_of_frames(_split(pixels, image), "GIF", icc=profile_of(image), xmp=xmp, texts=texts, **_moving(image))


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


def read_tiff(data: bytes, name: str, max_pixels: int) -> Photo:
    """A TIFF of one page, or of several that are alike."""
    pages = tiff_tags.read_pages(data)
    page, notes = pages[0], []
    count = len(pages)
    in_a_row = [page.number + n for n in range(count)] == [other.number for other in pages]
    if count > 1 and not (in_a_row and all(other.layout == page.layout for other in pages)):
        notes.append(f"the first of {count} pages was taken, as they differ in size or kind")
        count = 1
    check_size(name, page.width * page.height * count, max_pixels)
    if page.bits > _MOST_BITS:
        raise UnclearSamplesError(f"samples of {page.bits} bits")
    image = opened(data, "tiff", name, max_pixels, page=page.number, n=count)
    if page.photometric != _PALETTE and page.channels == image.bands > page.colours:
        image = _meaningful(image, page, name, notes)
    if page.has_colour_tags and profile_of(image) is None:
        notes.append("colours are told by tags of their own, which were left out")
    return photo_of_frames(
        _split(pixels_of(image, name), image), "TIFF", page.orientation, icc=profile_of(image), exif=page.exif,
        xmp=fact_of(image, "xmp-data"), iptc=page.iptc, resolution=page.resolution,
        notes=tuple(notes),
    )  # fmt: skip


_PALETTE = 3


_MOST_BITS = 32
"""Of samples in a TIFF that libvips reads."""


def _meaningful(image: Any, page: tiff_tags.Page, name: str, notes: list[str]) -> Any:
    """The colours and the alpha of a TIFF, without channels that may mean anything."""
    extra = page.channels - page.colours
    if extra > _MOST_EXTRA:
        raise refusal(name, f"{page.channels} channels", "export it as RGB")
    kept = list(range(page.colours)) + ([] if page.alpha is None else [page.alpha])
    if len(kept) < page.channels:
        notes.append(f"{page.channels - len(kept)} channel(s) of unspecified meaning left out")
    bands = [image.extract_band(band) for band in kept]
    meaning = "cmyk" if page.colours == 4 else image.interpretation
    return bands[0].bandjoin(bands[1:]).copy(interpretation=meaning) if len(bands) > 1 else bands[0]
