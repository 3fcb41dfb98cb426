"""PNG: its chunks, reading stills and animations, and the chunks that libvips does not write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from upsr.images.kinds import check_size
from upsr.images.metadata import orientation_of, positive, upright_size
from upsr.images.photo import Photo, text_bytes, upright_photo
from upsr.images.pillow import frames_of
from upsr.images.vips import opened, pixels, profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST_TEXT = 1 << 24
"""Bytes of an unpacked text at most."""

_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi")
_XMP = "XML:com.adobe.xmp"
_RAW_EXIF = ("Raw profile type exif", "Raw profile type APP1")
_RAW_XMP = "Raw profile type xmp"
_INCHES_PER_METRE = 0.0254
_COLOURS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}


@dataclass
class PngFacts:
    """The content of a PNG's chunks beside the pixels.

    Attributes:
        width, height, bits, colours: from the header; ``colours`` is 1 for grey, else 3.
        alpha: a channel or a colour is transparent.
        frames: number of frames; 1 for a still.
        ends: the last chunk is there.
        exif, xmp, texts, resolution, colour: see :class:`upsr.images.photo.Photo`; as they are in the file.
    """

    width: int
    height: int
    bits: int
    colours: int
    alpha: bool
    frames: int = 1
    ends: bool = False
    exif: bytes | None = None
    xmp: bytes | None = None
    texts: list[tuple[str, str]] = field(default_factory=list)
    resolution: tuple[float, float] | None = None
    colour: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def orientation(self) -> int:
        """1 to 8, as in EXIF."""
        return orientation_of(self.exif, self.xmp)


def read(data: bytes, name: str, max_pixels: int) -> Photo:
    """A PNG with all frames of an animation, with or without its last chunk."""
    facts = read_facts(data)
    moving: dict[str, Any] = {}
    notes = [] if facts.ends else ["the file ends before its end mark"]
    if facts.frames > 1:
        frames, icc, moving = _read_frames(data, name, max_pixels, facts)
        notes += ["16 bits of an animation are read as 8"] if facts.bits == 16 else []
    else:
        image = opened(data, "png", name, max_pixels)
        frames, icc = [pixels(image, name)], profile(image)
    return upright_photo(
        frames, "PNG", facts.orientation, icc=icc, exif=facts.exif, xmp=facts.xmp, texts=tuple(facts.texts),
        colour=tuple(facts.colour), resolution=facts.resolution, notes=tuple(notes), **moving,
    )  # fmt: skip


def _read_frames(
    data: bytes, name: str, max_pixels: int, facts: PngFacts
) -> tuple[list[Any], bytes | None, dict[str, Any]]:
    """Frames, profile and timing of an animation, by Pillow: libvips reads the first frame only."""
    mode = ("L" if facts.colours == 1 else "RGB") + ("A" if facts.alpha else "")
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        first = 1 if file.info.get("default_image") else 0  # shown by viewers without animations, and no frame
        numbers = range(first, getattr(file, "n_frames", 1))
        check_size(name, facts.width * facts.height * len(numbers), max_pixels)
        frames, durations = frames_of(file, numbers, mode)
        timing = {"durations": durations, "loop": file.info.get("loop", 0)} if len(frames) > 1 else {}
        return frames, file.info.get("icc_profile"), timing


def size(data: bytes) -> tuple[int, int]:
    """(height, width), upright."""
    facts = read_facts(data)
    return upright_size(facts.height, facts.width, facts.orientation)


def additions(head: bytes, photo: Photo) -> list[tuple[int, bytes]]:
    """Positions in a written file, and the chunks to insert there: colours and texts, behind the header."""
    colour = [_chunk(*item) for item in photo.colour if not (photo.icc and item[0] == b"sRGB")]
    return [(33, b"".join(colour + [_text_chunk(*item) for item in photo.texts]))]


def _text_chunk(keyword: str, text: str) -> bytes:
    key = keyword.encode("latin-1", "replace")[:79]
    try:
        return _chunk(b"tEXt", key + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        text = text_bytes(text).decode("utf-8", "replace")
        return _chunk(b"iTXt", key + b"\0\0\0\0\0" + text.encode("utf-8"))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def read_facts(data: bytes) -> PngFacts:
    """Reads the chunks before and after the pixels, also of a truncated PNG.

    Raises:
        ValueError: it has no header.
    """
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("a PNG without a header")
    width, height, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    facts = PngFacts(width, height, bits, _COLOURS.get(colour_type, 3), colour_type in (4, 6))
    for name, content in _chunks(data):
        if name == b"IEND":
            facts.ends = True
        elif name == b"acTL" and len(content) == 8:
            facts.frames = int.from_bytes(content[:4], "big")
        elif name == b"tRNS":
            facts.alpha = True
        elif name == b"eXIf":
            facts.exif = bytes(content)
        elif name == b"pHYs" and len(content) == 9 and content[8] == 1:
            across, down = struct.unpack_from(">II", content)
            facts.resolution = positive(across * _INCHES_PER_METRE, down * _INCHES_PER_METRE)
        elif name in _COLOUR:
            facts.colour.append((name, bytes(content)))
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            _take_text(facts, name, bytes(content))
    return facts


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, place = memoryview(data), 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        if place + 12 + length > len(data):
            return
        yield name, view[place + 8 : place + 8 + length]
        if name == b"IEND":
            return
        place += 12 + length


def _take_text(facts: PngFacts, name: bytes, content: bytes) -> None:
    keyword, text = _text(name, content)
    if text is None:
        return
    if keyword == _XMP:
        facts.xmp = text.encode("utf-8", "surrogateescape")
    elif keyword in _RAW_EXIF or keyword == _RAW_XMP:
        raw = _raw_profile(text)
        if keyword == _RAW_XMP:
            facts.xmp = facts.xmp or raw
        elif facts.exif is None and raw and raw[:2] in (b"Ex", b"II", b"MM"):
            facts.exif = raw.removeprefix(b"Exif\0\0")
    else:
        facts.texts.append((keyword, text))


def _text(name: bytes, content: bytes) -> tuple[str, str | None]:
    """Keyword and text of a chunk; ``None`` for a damaged text."""
    key, _, rest = content.partition(b"\0")
    keyword = key.decode("latin-1")
    if name == b"tEXt":
        return keyword, rest.decode("latin-1")
    if name == b"zTXt":
        unpacked = _inflated(rest[1:])
        return keyword, None if unpacked is None else unpacked.decode("latin-1")
    packed, body = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    unpacked = _inflated(body) if packed else body
    return keyword, None if unpacked is None else unpacked.decode("utf-8", "surrogateescape")


def _inflated(data: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(data, _LARGEST_TEXT)
    except zlib.error:
        return None


def _raw_profile(text: str) -> bytes | None:
    """Decodes ImageMagick's form: name, length and hexadecimal bytes, on lines."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None
