"""What an image file holds, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Frame = NDArray[Any]
"""(H, W, C) uint8 or uint16; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)."""


@dataclass(frozen=True, eq=False)
class Photo:
    """What a photo file holds.

    Attributes:
        frames: one for a still, more for an animation, fully composited, or for the pages of a TIFF; all of one shape and
            dtype, upright.
        format: "PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", or another one that is read but not written.
        icc: colour profile of the pixels.
        exif: a TIFF stream without the "Exif" prefix; its orientation is 1 and its thumbnail is gone.
        durations: milliseconds that each frame of an animation is shown; empty for a still and for pages.
        loop: how often an animation plays, 0 for ever.
        xmp: a packet of XMP, whose orientation is 1.
        iptc: its records, without what Photoshop puts around them in a JPEG.
        texts: keyword and text, as PNG has them; "Comment" is also that of JPEG and GIF.
        resolution: (across, down) in dots per inch, None where the file does not say.
        colour: name and content of the chunks of a PNG that say how its colours are meant, beside a profile.
        notes: what the reader left out of the file or had to make up for, a phrase each.
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
