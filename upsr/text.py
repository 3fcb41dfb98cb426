"""Text files as people's programs write them."""

from __future__ import annotations

import codecs
from pathlib import Path

from upsr.errors import UpsrError

_MARKS = {  # UTF-32's little-endian mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without the mark that Windows' programs begin files with.

    Raises:
        FileNotFoundError: there is no such file.
        UpsrError: it cannot be read, or is in another encoding.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UpsrError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UpsrError(f"{path}: not a text in UTF-8 (line {line}); save it in this encoding") from None
    if "\0" in text:
        raise UpsrError(f"{path}: not a text: it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def printable(path: str) -> str:
    """A path as text that any file, table or log takes: ``\\xe9`` stands for a byte that is no UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _encoding(data: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    # Without a mark: in UTF-16 every other byte of plain letters is zero, and texts in UTF-8 have no zeros.
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if (
            len(data) % 2 == 0
            and data.count(0)
            and data[first::2].count(0) > len(data) // 4 > data[1 - first :: 2].count(0)
        ):
            return encoding
    return "utf-8"
