"""Folders with option files and descriptions: the user's, and those that come with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = "home"
"""Folder in an installed package that has the checkout's options/ and datasets/*.yml."""


def homes() -> list[Path]:
    """The current folder, the checkout that the package is part of, and the folder in an installed package."""
    return list(dict.fromkeys([Path.cwd(), _PACKAGE.parent, _PACKAGE / INSTALLED]))


def option_file(path: str) -> str:
    """An option file of the current folder, or else one that comes with the package; ``path`` itself where there is none."""
    if Path(path).is_file():  # messages name it as it was typed
        return path
    return next((str(home / path) for home in homes() if (home / path).is_file()), path)
