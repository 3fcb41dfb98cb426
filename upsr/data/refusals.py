"""Refusals of image files: one line that names the file, the reason and the remedy."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from PIL import UnidentifiedImageError

from upsr.data.image_files import UnreadableImageError
from upsr.data.samples import UnclearSamplesError
from upsr.errors import UpsrError


@contextlib.contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turns what decoders say of a damaged file into one line, the same for every attempt."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UpsrError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise refusal(name, "no photo format that is known here", "choose a JPEG, PNG, WebP, TIFF or AVIF") from None
    except UnclearSamplesError as error:
        raise refusal(name, str(error), "export it with 8 or 16 bits") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own
            raise refusal(name, reason_of(error)) from None
        raise UnreadableImageError(f"{name}: cannot be read ({error.strerror})") from None
    except Exception as error:  # damaged files fail in many ways inside the decoders
        raise refusal(name, reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """One line of what a library says: libvips' first names its own function, and the longest of the rest tells most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    system = [line.removeprefix(_SYSTEM) for line in lines if line.startswith(_SYSTEM)]
    return system[0] if system else max(lines[1:] or lines, key=len)[:200]


_SYSTEM = "system error: "
"""What libvips puts before the reasons of the operating system, such as a full disk."""


def refusal(name: str, reason: str, remedy: str = "export or download it again") -> UnreadableImageError:
    """The error for a file that is no readable image."""
    return UnreadableImageError(f"{name}: not a readable image ({reason}); {remedy}")


def check_size(name: str, pixels: int, max_pixels: int) -> None:
    """Refuse an image of more than ``max_pixels``."""
    if pixels > max_pixels:
        raise UnreadableImageError(
            f"{name}: {pixels:,} pixels are more than the {max_pixels:,} allowed; scale it down or allow more"
        )
