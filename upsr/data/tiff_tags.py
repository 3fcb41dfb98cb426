"""The tags of a TIFF: its pages, what the channels of each mean, and what they say beside the pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from upsr.data.metadata import orientation_of, positive

_MOST_PAGES = 10_000
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 254, 256, 257, 258, 262
_ORIENTATION, _SAMPLES, _EXTRA, _FORMAT = 274, 277, 338, 339
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _XMP = 282, 283, 296, 700
IPTC = 33723
_COLOUR = (301, 318, 319)
"""Transfer function, white point, primaries."""

EXIF_TAGS = (270, 271, 272, 305, 306, 315, 33432)
"""Description, maker, model, software, date, artist, copyright."""

EXIF_FOLDERS = (34665, 34853)
"""The directories of EXIF itself and of the place."""

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}
_ALPHA = (1, 2)
_REDUCED_OR_MASK = 0b101
_UNITS_PER_INCH = {2: 1.0, 3: 2.54}


@dataclass(frozen=True)
class Page:
    """A picture of a TIFF.

    Attributes:
        number: among all in the file.
        width, height, bits, photometric, sample_format: as in the tags; ``bits`` of the first channel.
        channels: that the samples have.
        colours: of these, how many are colours, the first.
        alpha: number of the channel that is alpha, or ``None``. A channel of unspecified meaning is none: scanners put infrared
            there.
        orientation: 1 to 8, as in EXIF.
        resolution: (across, down) in dots per inch, or ``None``.
        exif: description, camera, date, author and the like, as a TIFF stream, or ``None``.
        iptc: its records, or ``None``.
        has_colour_tags: whether colours are meant otherwise than usual.
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
        """What pages that are read together have in common."""
        return self.width, self.height, self.bits, self.photometric, self.sample_format, self.channels, self.orientation


def read_pages(data: bytes) -> list[Page]:
    """The pictures of a TIFF in their order, without masks and smaller copies.

    Raises:
        ValueError: the tags cannot be read.
    """
    file = io.BytesIO(data)
    place: int | None = None
    pages: list[tuple[int, Page]] = []
    seen: set[int] = set()
    for number in range(_MOST_PAGES):
        tags = new_directory(data[:16])
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


def new_directory(header: bytes) -> ImageFileDirectory_v2:
    """An empty directory for a file with these first 16 bytes; its ``next`` is where the file's first one is."""
    tags = ImageFileDirectory_v2(header[: 16 if header[2] == 43 else 8])
    if 43 in header[2:4] and not tags._bigtiff:  # Pillow 12 looks for the number where only little-endian files have it
        tags._bigtiff = True
        tags.next = int.from_bytes(header[8:16], "big")
    return tags


def _page(number: int, tags: ImageFileDirectory_v2, file: io.BytesIO) -> Page:
    photometric, channels = int(tags.get(_PHOTOMETRIC, 1)), int(tags.get(_SAMPLES, 1))
    colours = min(_COLOURS.get(photometric, channels), channels)
    extra = _numbers(tags.get(_EXTRA, ()))
    alpha = next((colours + n for n, kind in enumerate(extra[: channels - colours]) if kind in _ALPHA), None)
    xmp = tags.get(_XMP)
    turned = tags.get(_ORIENTATION, 0)
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
        orientation=int(turned)
        if turned in range(1, 9)
        else orientation_of(None, xmp if isinstance(xmp, bytes) else None),
        resolution=_resolution(tags),
        exif=_exif(tags, file),
        iptc=_iptc(tags),
        has_colour_tags=any(tag in tags for tag in _COLOUR),
    )


def as_stored(value: Any) -> Any:
    """A tag's value, to be written again: Pillow reads text as Latin-1 whatever it is, and would write ASCII."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, (tuple, list)) else (int(value),)


def _resolution(tags: ImageFileDirectory_v2) -> tuple[float, float] | None:
    try:
        factor = _UNITS_PER_INCH[int(tags.get(_UNIT, 2))]
        return positive(float(tags[_X_RESOLUTION]) * factor, float(tags[_Y_RESOLUTION]) * factor)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _iptc(tags: ImageFileDirectory_v2) -> bytes | None:
    value = tags.get(IPTC)
    if isinstance(value, tuple):  # some write it as numbers of four bytes
        value = b"".join(int(number).to_bytes(4, "little" if tags.prefix == b"II" else "big") for number in value)
    return value if isinstance(value, bytes) and value else None


def _exif(tags: ImageFileDirectory_v2, file: io.BytesIO) -> bytes | None:
    exif = Image.Exif()
    for tag in EXIF_TAGS:
        if tag in tags:
            exif[tag] = as_stored(tags[tag])
    for tag in EXIF_FOLDERS:
        place = tags.get(tag)
        if isinstance(place, int) and 0 < place < file.getbuffer().nbytes:
            folder = new_directory(file.getvalue()[:16])
            file.seek(place)
            folder.load(file)
            exif.get_ifd(tag).update({key: as_stored(value) for key, value in folder.items()})
    return exif.tobytes().removeprefix(b"Exif\0\0") if len(exif) else None
