"""libvips, imported on first use: opens encoded images, and converts what it decodes to frames."""

from __future__ import annotations

import logging
import os
from typing import Any

from numpy.typing import NDArray

from upsr.images.kinds import check_size, refusal
from upsr.images.samples import UnclearSamplesError, to_integers

_INTERPRETATIONS = ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "cmyk")


class _Used:
    process: int | None = None


def vips() -> Any:
    """The library. Its import takes a while; its warnings are suppressed."""
    import pyvips

    logging.getLogger("pyvips").setLevel(logging.ERROR)
    _Used.process = _Used.process or os.getpid()
    return pyvips


def vips_works_here() -> bool:
    """False in a fork of a process that has used libvips: it would wait for threads that a fork does not copy."""
    return _Used.process in (None, os.getpid())


def opened(data: bytes, loader: str, name: str, max_pixels: int, fail_on: str = "error", **options: Any) -> Any:
    """An image, of which nothing is decoded yet.

    Raises:
        UnreadableImageError: it has more than ``max_pixels``.
    """
    image = getattr(vips().Image, f"{loader}load_buffer")(data, access="sequential", fail_on=fail_on, **options)
    check_size(name, image.width * image.height, max_pixels)
    return image


def field(image: Any, key: str, default: Any = None) -> Any:
    """A metadata field of an image."""
    return image.get(key) if image.get_typeof(key) else default


def pixels(image: Any, name: str) -> NDArray[Any]:
    """(H, W, C) uint8 or uint16, grey or RGB, with or without alpha; CMYK becomes sRGB.

    Raises:
        UnreadableImageError: colours of another kind, or more than four channels.
        UnclearSamplesError: see :func:`upsr.images.samples.to_integers`.
    """
    if image.interpretation not in _INTERPRETATIONS:
        raise refusal(name, f"colours are {image.interpretation}", "export it as RGB")
    if image.interpretation == "cmyk":
        image = _from_cmyk(image)
    if image.bands > 4:
        raise refusal(name, f"{image.bands} channels", "export it as RGB")
    return to_integers(image.numpy().reshape(image.height, image.width, -1))


def frames(stacked: NDArray[Any], image: Any) -> NDArray[Any]:
    """(N, H, W, C) of frames that libvips stacks vertically: (N*H, W, C)."""
    return stacked.reshape(-1, field(image, "page-height", image.height), *stacked.shape[1:])


def timing(image: Any) -> dict[str, Any]:
    """Durations and loops of an animation, as arguments of a photo; empty for a still."""
    if image.height // field(image, "page-height", image.height) < 2:
        return {}
    return {"durations": tuple(field(image, "delay")), "loop": field(image, "loop", 0)}


def profile(image: Any) -> bytes | None:
    """The profile of the decoded pixels; that of CMYK was used in converting them."""
    return None if image.interpretation == "cmyk" else field(image, "icc-profile-data")


def _from_cmyk(image: Any) -> Any:
    """CMYK (and alpha) to sRGB: by its own profile; without one as Pillow and browsers do."""
    largest = {"uchar": 255, "ushort": 65535}.get(image.format)
    if largest is None:
        raise UnclearSamplesError(f"CMYK of type {image.format}")
    if field(image, "icc-profile-data", b"")[16:20] == b"CMYK":
        depth = 8 if largest == 255 else 16
        return image.icc_transform("srgb", embedded=True, depth=depth, black_point_compensation=True)
    colour = (largest - image.extract_band(0, n=3)) * ((largest - image.extract_band(3)) / largest)
    colour = colour.rint().cast(image.format)
    return colour.bandjoin(image.extract_band(4)) if image.bands > 4 else colour
