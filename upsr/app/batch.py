"""Many photos at once: each is upscaled whole, and a ZIP file holds the results."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from upsr.app import pictures
from upsr.errors import UpsrError
from upsr.images.photo import Photo
from upsr.images.writing import write_photo
from upsr.photos.upscaling import inconsistency

REPORT = "not_upscaled.txt"
"""In the ZIP file: photos that are not in it, and why."""
NOTES = "notes.txt"
"""In the ZIP file: what the format of the results does not hold, of which photo."""
SETTINGS = "settings.json"
"""In the ZIP file: what ``upsr upscale --settings`` repeats."""


@dataclass(frozen=True)
class Batch:
    """What became of several photos.

    Attributes:
        path: the ZIP file, or None if no photo was upscaled.
        done: number of photos in it.
        refused: a line for each photo that is not in it: its name and why.
    """

    path: str | None
    done: int
    refused: tuple[str, ...]


def upscale_all(
    paths: Sequence[Path],
    upscaled: Callable[[int, Path], Photo],
    name_of: Callable[[Path], Path],
    quality: int,
    settings: str,
    folder: Path,
    *,
    consistent: bool,
) -> Batch:
    """Upscale photos one after another. What is refused is noted, and the others go on.

    Args:
        upscaled: the result for a photo, of its number and path; what it raises beside UpsrError ends the work.
        name_of: the name of the result's file.
        quality: of formats that have one.
        settings: content of the file :data:`SETTINGS`.
        folder: a new folder within it gets the ZIP file.
        consistent: the results were made so.
    """
    place = pictures.new_place(folder)
    target, names, refused, notes = place / "upscaled.zip", set[str](), [], []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # photos do not become smaller
        for number, path in enumerate(paths):
            try:
                result = upscaled(number, path)
            except UpsrError as error:
                refused.append(f"{path.name}: {error}")
                continue
            name = _unused(name_of(path), names)
            said = (*inconsistency(place / name, consistent), *write_photo(place / name, result, quality=quality))
            notes += [f"{name}: {note}" for note in said]
            archive.write(place / name, name)
            (place / name).unlink()
        archive.writestr(SETTINGS, settings)
        if notes:
            archive.writestr(NOTES, "\n".join(notes) + "\n")
        if refused:
            archive.writestr(REPORT, "\n".join(refused) + "\n")
    return Batch(str(target) if names else None, len(names), tuple(refused))


def _unused(name: Path, names: set[str]) -> str:
    """The name, with a number where another photo has it; noted among ``names``."""
    number, chosen = 2, str(name)
    while chosen in names:
        chosen, number = f"{name.stem}_{number}{name.suffix}", number + 1
    names.add(chosen)
    return chosen
