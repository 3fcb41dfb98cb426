"""The decoded content of an image file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from upsr.images.metadata import neutral_exif, neutral_xmp, resolution_of, upright

Frame = NDArray[Any]
"""(H, W, C) uint8 or uint16; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo with all that its file carries.

    Attributes:
        frames: one for a still, more for an animation, fully composited, or for the pages of a TIFF; all of one shape and
            dtype, upright.
        format: "PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", or another one that is read but not written.
        icc: colour profile of the pixels.
        exif: a TIFF stream without the "Exif" prefix; its orientation is 1 and its thumbnail is gone.
        durations: milliseconds that each frame of an animation is shown; empty for a still and for pages.
        loop: number of times that an animation plays, 0 for ever.
        xmp: a packet of XMP, whose orientation is 1.
        iptc: IPTC records, without the Photoshop resource block around them in a JPEG.
        texts: keyword and text as in PNG; the comment of a JPEG or GIF has the keyword "Comment".
        resolution: (horizontal, vertical) in dots per inch, or None.
        colour: name and content of PNG chunks that define the colour space, beside a profile.
        notes: phrases for the user: what the reader left out or repaired.
    """

    frames: tuple[Frame, ...]
    format: str
    icc: bytes | None = None
    exif: bytes | None = None
    durations: tuple[int, ...] = ()
    loop: int = 0
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    resolution: tuple[float, float] | None = None
    colour: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()


def upright_photo(frames: Iterable[Frame], kind: str, orientation: int = 1, **facts: Any) -> Photo:
    """A photo of frames as they are stored, turned upright, with EXIF and XMP that say so.

    Args:
        orientation: of the stored frames, 1 to 8 as in EXIF.
        facts: attributes of :class:`Photo`; the resolution is that of the EXIF where it is not given.
    """
    exif = facts.get("exif")
    facts["resolution"] = facts.get("resolution") or resolution_of(exif)
    facts["exif"], facts["xmp"] = neutral_exif(exif), neutral_xmp(facts.get("xmp"))
    return Photo(tuple(upright(frame, orientation) for frame in frames), kind, **facts)


def text_bytes(text: str) -> bytes:
    """The bytes of a text that was decoded with ``surrogateescape``."""
    return text.encode("utf-8", "surrogateescape")
