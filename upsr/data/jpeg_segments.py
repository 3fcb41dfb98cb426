"""The segments of a JPEG before its pixels: what it says beside them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from upsr.data.metadata import positive

_INCHES_PER_UNIT = {1: 1.0, 2: 2.54}
_COMMENT, _JFIF, _MULTI, _SCAN = 0xFE, 0xE0, 0xE2, 0xDA


@dataclass
class JpegFacts:
    """What the segments say.

    Attributes:
        comments: in their order.
        resolution: (across, down) in dots per inch by the JFIF header, or ``None``.
        has_more_pictures: whether the file lists further pictures, such as previews, views of a stereo camera or gain maps.
    """

    comments: list[str] = field(default_factory=list)
    resolution: tuple[float, float] | None = None
    has_more_pictures: bool = False


def read_facts(data: bytes) -> JpegFacts:
    """Reads the segments up to the pixels, as far as they are whole."""
    facts, place = JpegFacts(), 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _SCAN:
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == 0xFF:  # padding
            place += 1
            continue
        content = data[place + 4 : place + 2 + length]
        if kind == _COMMENT:
            facts.comments.append(content.decode("utf-8", "surrogateescape"))
        elif kind == _JFIF and content[:5] == b"JFIF\0" and len(content) >= 12:
            unit, across, down = struct.unpack_from(">BHH", content, 7)
            factor = _INCHES_PER_UNIT.get(unit)
            facts.resolution = positive(across * factor, down * factor) if factor else None
        elif kind == _MULTI and content[:4] == b"MPF\0":
            facts.has_more_pictures = True
        place += 2 + length
    return facts
