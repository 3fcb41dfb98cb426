"""WebP and GIF: all frames of animations, and the comments that libvips does not write."""

from __future__ import annotations

import io
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from upsr.images.kinds import refusal
from upsr.images.metadata import orientation_of
from upsr.images.photo import Photo, text_bytes, upright_photo
from upsr.images.vips import field, frames, opened, pixels, profile, timing


def read_webp(data: bytes, name: str, max_pixels: int) -> Photo:
    """A WebP."""
    image = opened(data, "webp", name, max_pixels, n=-1)
    found, moving = pixels(image, name), timing(image)
    if moving:  # frames are transparent where the one before is to be seen
        found = _without_idle_alpha(found)
    exif, xmp = field(image, "exif-data"), field(image, "xmp-data")
    return upright_photo(
        frames(found, image), "WEBP", orientation_of(exif, xmp), icc=profile(image), exif=exif, xmp=xmp, **moving
    )


def read_gif(data: bytes, name: str, max_pixels: int) -> Photo:
    """A GIF.

    Raises:
        UnreadableImageError: it is truncated.
    """
    if not _has_trailer(data):
        raise refusal(name, "the file is truncated")
    image = opened(data, "gif", name, max_pixels, n=-1)
    found = _without_idle_alpha(pixels(image, name))
    with Image.open(io.BytesIO(data), formats=["GIF"]) as file:
        comment, xmp = file.info.get("comment"), file.info.get("xmp")
    texts = (("Comment", comment.decode("utf-8", "surrogateescape")),) if comment else ()
    return upright_photo(frames(found, image), "GIF", icc=profile(image), xmp=xmp, texts=texts, **timing(image))


def gif_additions(head: bytes, photo: Photo) -> list[tuple[int, bytes]]:
    """Positions in a written GIF, and the comments to insert there, behind the first table of colours."""
    blocks = []
    for content in (text_bytes(text) for key, text in photo.texts if key == "Comment"):
        parts = [content[at : at + 255] for at in range(0, len(content), 255)]
        blocks.append(b"\x21\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0")
    return [(13 + _table(head[10]), b"".join(blocks))]


def _without_idle_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """(..., C) without an alpha channel that is opaque everywhere."""
    return pixels[..., :-1] if pixels.shape[-1] % 2 == 0 and pixels[..., -1].min() == 255 else pixels


def _has_trailer(data: bytes) -> bool:
    """Walks the blocks of a GIF: libvips reads a truncated one as an animation with fewer frames."""
    try:
        place = 13 + _table(data[10])
        while data[place] in (0x21, 0x2C):  # an extension or a picture
            place += 2 if data[place] == 0x21 else 11 + _table(data[place + 9])
            while data[place]:
                place += 1 + data[place]
            place += 1
        return data[place] == 0x3B
    except IndexError:
        return False


def _table(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
