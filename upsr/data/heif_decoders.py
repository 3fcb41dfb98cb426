"""Photos in HEIF containers (AVIF, HEIC) and JPEG XL."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from upsr.data import heif_and_jxl
from upsr.data.metadata import (
    orientation_of,
    resolution_of,
    upright_size,
)
from upsr.data.photo import Photo
from upsr.data.pillow_decoders import frame_of_pillow
from upsr.data.refusals import check_size
from upsr.data.samples import to_integers, widened
from upsr.data.vips_decoders import fact_of, opened, photo_of_frames, pixels_of, profile_of


def read_avif(data: bytes, name: str, max_pixels: int) -> Photo:
    """An AVIF, still or moving."""
    if b"avis" in data[8:64] and (moving := _read_avif_sequence(data, name, max_pixels)):
        return moving
    image = opened(data, "heif", name, max_pixels)
    pixels = pixels_of(image, name)
    if pixels.dtype == np.uint16:
        pixels = widened(pixels, fact_of(image, "heif-bitdepth", 16))
    pages = fact_of(image, "n-pages", 1)
    notes = (f"the first of {pages} pictures was taken",) if pages > 1 else ()
    exif = fact_of(image, "exif-data")
    return photo_of_frames(  # upright already: the container itself says how
        [pixels], "AVIF", icc=profile_of(image), exif=exif, xmp=fact_of(image, "xmp-data"), resolution=resolution_of(exif),
        colour=heif_and_jxl.colour_of_heif(data) if profile_of(image) is None else (), notes=notes,
    )  # fmt: skip


def _read_avif_sequence(data: bytes, name: str, max_pixels: int) -> Photo | None:
    """All frames, which libvips does not know; ``None`` where there is one."""
    with Image.open(io.BytesIO(data), formats=["AVIF"]) as file:
        count = getattr(file, "n_frames", 1)
        if count < 2:
            return None
        check_size(name, file.width * file.height * count, max_pixels)
        frames, durations = [], []
        for number in range(count):
            file.seek(number)
            file.load()
            frames.append(frame_of_pillow(file))
            durations.append(round(file.info.get("duration", 100)))
        exif = file.info.get("exif")
        facts = {"icc": file.info.get("icc_profile"), "exif": exif, "xmp": file.info.get("xmp")}
    notes = ("more than 8 bits of an animation are read as 8",) if heif_and_jxl.is_deep_avif(data) else ()
    return photo_of_frames(
        frames,
        "AVIF",
        orientation_of(exif),
        durations=tuple(durations),
        resolution=resolution_of(exif),
        notes=notes,
        **facts,
    )


def read_heic(data: bytes, name: str, max_pixels: int) -> Photo:
    """A HEIC; needs the extra ``upsr[formats]``."""
    picture = heif_and_jxl.open_heic(data, name)
    check_size(name, picture.width * picture.height, max_pixels)
    return _of_extra(picture)


def read_jxl(data: bytes, name: str, max_pixels: int) -> Photo:
    """A JPEG XL; needs the extra ``upsr[formats]``."""
    width, height, _ = heif_and_jxl.jxl_size(data)
    check_size(name, width * height, max_pixels)
    return _of_extra(heif_and_jxl.open_jxl(data, name))


def _of_extra(picture: heif_and_jxl.Picture) -> Photo:
    return photo_of_frames(
        [to_integers(picture.decode())], picture.kind, picture.orientation, icc=picture.icc, exif=picture.exif,
        xmp=picture.xmp, resolution=resolution_of(picture.exif), colour=picture.colour, notes=picture.notes,
    )  # fmt: skip


def read_heif(data: bytes, name: str, max_pixels: int) -> Photo:
    """A container whose brand does not say what is in it."""
    return (read_avif if heif_and_jxl.holds_av1(data) else read_heic)(data, name, max_pixels)


def size_of_heic(data: bytes) -> tuple[int, int]:
    """(height, width) from the header."""
    picture = heif_and_jxl.open_heic(data, "")
    return picture.height, picture.width


def size_of_jxl(data: bytes) -> tuple[int, int]:
    """(height, width), upright, from the header."""
    width, height, orientation = heif_and_jxl.jxl_size(data)
    return upright_size(height, width, orientation)
