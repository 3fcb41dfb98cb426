"""The chunks of a PNG: what it says beside its pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from upsr.data.metadata import orientation_of, positive

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"
_LARGEST_TEXT = 1 << 24
"""Bytes that a compressed text may unpack to."""

_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi")
_XMP = "XML:com.adobe.xmp"
_RAW_EXIF = ("Raw profile type exif", "Raw profile type APP1")
_RAW_XMP = "Raw profile type xmp"
_INCHES_PER_METRE = 0.0254
_COLOURS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}


@dataclass
class PngFacts:
    """What the chunks say.

    Attributes:
        width, height, bits, colours: of the header; ``colours`` is 1 for grey and 3 for the rest.
        alpha: whether there is a channel or a colour that is transparent.
        palette: whether pixels are numbers of colours.
        frames: of an animation; 1 for a still.
        ends: whether the last chunk is there.
        exif, xmp, texts, resolution, colour: see :class:`upsr.data.photo.Photo`; as they are in the file.
    """

    width: int
    height: int
    bits: int
    colours: int
    alpha: bool
    palette: bool
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


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk as it stands in a file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def read_facts(data: bytes) -> PngFacts:
    """Reads the chunks of a PNG, before and after the pixels, whole or not.

    Raises:
        ValueError: it has no header.
    """
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("a PNG without a header")
    width, height, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    facts = PngFacts(width, height, bits, _COLOURS.get(colour_type, 3), colour_type in (4, 6), colour_type == 3)
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
    """Keyword and text of a chunk; no text where it is damaged."""
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
    """ImageMagick's form: a name, a length and hexadecimal numbers, on lines."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None
