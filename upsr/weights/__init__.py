"""The weights that come with the package, found by name wherever an option names weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from upsr.config.schema import Options

Part = Literal["denoiser", "g"]

_HERE = Path(__file__).parent


def shipped_names() -> list[str]:
    """What there is: ``tiny``."""
    return sorted(folder.name for folder in _HERE.iterdir() if (folder / "g.safetensors").is_file())


def shipped_folder(name: str) -> Path:
    """The folder of a shipped model: a saved pipeline, with its card and record."""
    return _HERE / name


def find_weights(name: str, part: Part) -> Path:
    """The file of a shipped model's part, or the path that ``name`` is."""
    return _HERE / name / f"{part}.safetensors" if name in shipped_names() else Path(name)


def files_of(path: Path) -> list[Path]:
    """The files that weights are in: ncnn's layers (.param) have theirs in a .bin."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".param" else [path]


def weight_files(opt: Options) -> dict[str, Path]:
    """The weight files that options name, by key; a network from elsewhere names its own."""
    parts: dict[str, Part] = {"pretrain_network_g": "denoiser" if opt.network_aux else "g", "pretrain_network_aux": "g"}
    named = {key: getattr(opt.path, key) for key in parts}
    found = {f"path.{key}": find_weights(name, parts[key]) for key, name in named.items() if name is not None}
    for key, network in (("network_g", opt.network_g), ("network_aux", opt.network_aux)):
        if network is not None and "path" in network.arguments:
            file, *more = files_of(Path(network.arguments["path"]))
            found |= {f"{key}.path": file, **{f"{key}.path ({other.suffix})": other for other in more}}
    return found
