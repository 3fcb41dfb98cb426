"""TIFF: the tags of its pages, reading, and the tags that libvips does not write."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from upsr.images.kinds import check_size, refusal
from upsr.images.metadata import UNITS_PER_INCH, orientation_of, positive, upright_size
from upsr.images.photo import Photo, upright_photo
from upsr.images.samples import UnclearSamplesError
from upsr.images.vips import field, frames, opened, pixels, profile

_MOST_PAGES = 10_000
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 254, 256, 257, 258, 262
_ORIENTATION, _SAMPLES, _EXTRA, _FORMAT = 274, 277, 338, 339
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _XMP = 282, 283, 296, 700
_IPTC = 33723
_COLOUR = (301, 318, 319)
"""Transfer function, white point, primaries."""

_EXIF_TAGS = (270, 271, 272, 305, 306, 315, 33432)
"""Description, maker, model, software, date, artist, copyright."""

_EXIF_FOLDERS = (34665, 34853)
"""The directories of EXIF itself and of GPS."""

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}
_ALPHA = (1, 2)
_REDUCED_OR_MASK = 0b101
_PALETTE = 3
_MOST_BITS = 32
"""Bits of a sample that libvips reads at most."""

_MOST_EXTRA = 2
"""Channels beside the colours; a file with more is no photo."""


@dataclass(frozen=True)
class Page:
    """The tags of a picture in a TIFF.

    Attributes:
        number: index among all pictures of the file.
        width, height, bits, photometric, sample_format: as in the tags; ``bits`` of the first channel.
        channels: number of channels.
        colours: number of colour channels, which come first.
        alpha: index of the alpha channel, or ``None``. A channel of unspecified meaning is no alpha: scanners store infrared
            in it.
        orientation: 1 to 8, as in EXIF.
        resolution: (horizontal, vertical) in dots per inch, or ``None``.
        exif: description, camera, date, author and the like, as a TIFF stream, or ``None``.
        iptc: IPTC records, or ``None``.
        has_colour_tags: tags define the colour space.
    """

    number: int
    width: int
    height: int
    bits: int
    photometric: int
    sample_format: int
    channels: int
    colours: int
    alpha: int | None
    orientation: int
    resolution: tuple[float, float] | None
    exif: bytes | None
    iptc: bytes | None
    has_colour_tags: bool

    @property
    def layout(self) -> tuple[int, ...]:
        """Equal for pages that can be read together."""
        return self.width, self.height, self.bits, self.photometric, self.sample_format, self.channels, self.orientation


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A TIFF: all pages where they have one layout, else the first."""
    pages = read_pages(data)
    page, count, notes = pages[0], len(pages), []
    adjacent = [page.number + n for n in range(count)] == [other.number for other in pages]
    if count > 1 and not (adjacent and all(other.layout == page.layout for other in pages)):
        notes.append(f"the first of {count} pages was taken, as they differ in size or kind")
        count = 1
    check_size(name, page.width * page.height * count, max_pixels)
    if page.bits > _MOST_BITS:
        raise UnclearSamplesError(f"samples of {page.bits} bits")
    image = opened(data, "tiff", name, max_pixels, page=page.number, n=count)
    if page.photometric != _PALETTE and page.channels == image.bands > page.colours:
        image = _meaningful(image, page, name, notes)
    if page.has_colour_tags and profile(image) is None:
        notes.append("colours are described by tags of their own, which were left out")
    return upright_photo(
        frames(pixels(image, name), image), "TIFF", page.orientation, icc=profile(image), exif=page.exif,
        xmp=field(image, "xmp-data"), iptc=page.iptc, resolution=page.resolution, notes=tuple(notes),
    )  # fmt: skip


def size(data: bytes) -> tuple[int, int]:
    """(height, width), upright."""
    page = read_pages(data)[0]
    return upright_size(page.height, page.width, page.orientation)


def _meaningful(image: Any, page: Page, name: str, notes: list[str]) -> Any:
    """Colours and alpha, without channels of unspecified meaning."""
    extra = page.channels - page.colours
    if extra > _MOST_EXTRA:
        raise refusal(name, f"{page.channels} channels", "export it as RGB")
    kept = list(range(page.colours)) + ([] if page.alpha is None else [page.alpha])
    if len(kept) < page.channels:
        notes.append(f"{page.channels - len(kept)} channel(s) of unspecified meaning left out")
    bands = [image.extract_band(band) for band in kept]
    meaning = "cmyk" if page.colours == 4 else image.interpretation
    return bands[0].bandjoin(bands[1:]).copy(interpretation=meaning) if len(bands) > 1 else bands[0]


def read_pages(data: bytes) -> list[Page]:
    """The pictures of a TIFF in their order, without masks and thumbnails.

    Raises:
        ValueError: the tags cannot be read.
    """
    file = io.BytesIO(data)
    place: int | None = None
    pages: list[tuple[int, Page]] = []
    seen: set[int] = set()
    for number in range(_MOST_PAGES):
        tags = _new_directory(data[:16])
        place = tags.next if number == 0 else place
        if not place or place in seen or place >= len(data):
            break
        seen.add(place)
        file.seek(place)
        tags.load(file)
        pages.append((int(tags.get(_SUBFILE, 0)) & _REDUCED_OR_MASK, _page(number, tags, file)))
        place = tags.next
    if not pages:
        raise ValueError("a TIFF without a picture")
    return [page for less, page in pages if not less] or [pages[0][1]]


def _new_directory(header: bytes) -> ImageFileDirectory_v2:
    """An empty directory for a file with these first 16 bytes; its ``next`` is where the file's first one is."""
    tags = ImageFileDirectory_v2(header[: 16 if header[2] == 43 else 8])
    if 43 in header[2:4] and not tags._bigtiff:  # Pillow 12 recognises little-endian BigTIFF only
        tags._bigtiff = True
        tags.next = int.from_bytes(header[8:16], "big")
    return tags


def _page(number: int, tags: ImageFileDirectory_v2, file: io.BytesIO) -> Page:
    photometric, channels = int(tags.get(_PHOTOMETRIC, 1)), int(tags.get(_SAMPLES, 1))
    colours = min(_COLOURS.get(photometric, channels), channels)
    extra = _numbers(tags.get(_EXTRA, ()))
    alpha = next((colours + n for n, kind in enumerate(extra[: channels - colours]) if kind in _ALPHA), None)
    xmp = tags.get(_XMP)
    orientation = int(tags.get(_ORIENTATION, 0))
    if orientation not in range(1, 9):
        orientation = orientation_of(None, xmp if isinstance(xmp, bytes) else None)
    return Page(
        number=number,
        width=int(tags[_WIDTH]),
        height=int(tags[_HEIGHT]),
        bits=_numbers(tags.get(_BITS, (1,)))[0],
        photometric=photometric,
        sample_format=(_numbers(tags.get(_FORMAT, (1,))) or (1,))[0],
        channels=channels,
        colours=colours,
        alpha=alpha,
        orientation=orientation,
        resolution=_resolution_of(tags),
        exif=_exif_of(tags, file),
        iptc=_iptc_of(tags),
        has_colour_tags=any(tag in tags for tag in _COLOUR),
    )


def _as_stored(value: Any) -> Any:
    """A tag's value in the form to write: Pillow reads all text as Latin-1 and would write ASCII."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, (tuple, list)) else (int(value),)


def _resolution_of(tags: ImageFileDirectory_v2) -> tuple[float, float] | None:
    try:
        factor = UNITS_PER_INCH[int(tags.get(_UNIT, 2))]
        return positive(float(tags[_X_RESOLUTION]) * factor, float(tags[_Y_RESOLUTION]) * factor)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _iptc_of(tags: ImageFileDirectory_v2) -> bytes | None:
    value = tags.get(_IPTC)
    if isinstance(value, tuple):  # some write it as numbers of four bytes
        value = b"".join(int(number).to_bytes(4, "little" if tags.prefix == b"II" else "big") for number in value)
    return value if isinstance(value, bytes) and value else None


def _exif_of(tags: ImageFileDirectory_v2, file: io.BytesIO) -> bytes | None:
    exif = Image.Exif()
    for tag in _EXIF_TAGS:
        if tag in tags:
            exif[tag] = _as_stored(tags[tag])
    for tag in _EXIF_FOLDERS:
        place = tags.get(tag)
        if isinstance(place, int) and 0 < place < file.getbuffer().nbytes:
            folder = _new_directory(file.getvalue()[:16])
            file.seek(place)
            folder.load(file)
            exif.get_ifd(tag).update({key: _as_stored(value) for key, value in folder.items()})
    return exif.tobytes().removeprefix(b"Exif\0\0") if len(exif) else None


def add_tags(path: Path, photo: Photo) -> None:
    """Adds EXIF and IPTC to a written TIFF: libvips leaves out the first, and three quarters of the second.

    The new data, and a longer copy of the first directory behind it, are appended to the file.
    """
    if not (photo.exif or photo.iptc):
        return
    tags = Image.Exif()
    if photo.exif:
        tags.load(b"Exif\0\0" + photo.exif)
    with path.open("r+b") as file:
        head = file.read(16)
        directory = _new_directory(head)
        first = directory.next
        for tag in _EXIF_TAGS:
            if tag in tags:
                directory[tag] = _as_stored(tags[tag])
        for tag in _EXIF_FOLDERS:
            if folder := tags.get_ifd(tag):
                directory[tag] = {key: _as_stored(value) for key, value in folder.items()}
        if photo.iptc:
            directory[_IPTC] = photo.iptc
        if not len(directory):
            return
        end = file.seek(0, 2)
        added = bytes(end % 2) + directory.tobytes(end + end % 2)
        added += bytes(len(added) % 2)
        order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
        count, size, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
        entries = _entries(added[end % 2 :], order + count, size)
        file.seek(first)
        before = file.read(1 << 20)
        kept = _entries(before, order + count, size)
        (after,) = struct.unpack_from(order + pointer, before, struct.calcsize(count) + size * len(kept))
        merged = sorted((kept | entries).items())
        file.seek(end)
        file.write(added)
        place = file.tell()
        file.write(struct.pack(order + count, len(merged)) + b"".join(entry for _, entry in merged))
        file.write(struct.pack(order + pointer, after))
        file.seek(8 if big else 4)
        file.write(struct.pack(order + pointer, place))


def _entries(directory: bytes, count: str, size: int) -> dict[int, bytes]:
    """The encoded entries of a directory, by tag."""
    (number,) = struct.unpack_from(count, directory)
    start = struct.calcsize(count)
    found = [directory[at : at + size] for at in range(start, start + size * number, size)]
    return {struct.unpack_from(count[0] + "H", entry)[0]: entry for entry in found}
