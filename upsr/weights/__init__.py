"""The weights that come with the package, found by name wherever an option names weights."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def shipped_names() -> list[str]:
    """What there is: ``tiny``."""
    return sorted(folder.name for folder in _HERE.iterdir() if (folder / "g.safetensors").is_file())


def shipped_folder(name: str) -> Path:
    """The folder of a shipped model: a saved pipeline, with its card and record."""
    return _HERE / name


def find_weights(name: str, part: str) -> Path:
    """The file of a shipped model's part, or the path that ``name`` is."""
    return _HERE / name / f"{part}.safetensors" if name in shipped_names() else Path(name)


def files_of(path: Path) -> list[Path]:
    """The files that weights are in: ncnn's layers (.param) have theirs in a .bin."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".param" else [path]
