"""The weights that come with the package, found by name wherever an option names weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from upsr.config.components import components_in
from upsr.config.methods import Found, method_of
from upsr.config.schema import CommonOptions
from upsr.errors import UpsrError
from upsr.weights.hub import folder_files

Part = str
"""Name of a network among a method's parts."""

_HERE = Path(__file__).parent


def shipped_names() -> list[str]:
    """What there is: ``tiny``, ``tiny-1``."""
    return sorted(folder.name for folder in _HERE.iterdir() if (folder / "g.safetensors").is_file())


def shipped_folder(name: str) -> Path:
    """The folder of a shipped model: a saved pipeline, with its card and record."""
    return _HERE / name


def find_weights(name: str, part: Part) -> Path:
    """The file of a shipped model's part, or the path that ``name`` is."""
    return _HERE / name / f"{part}.safetensors" if name in shipped_names() else Path(name)


def run_weights(folder: Path, keys: Iterable[str]) -> dict[str, Path]:
    """The newest weights of a training run, in whichever format it writes them, by key.

    Args:
        keys: of the method's weights in the section ``path``; ``pretrain_network_NAME`` is for what the player NAME trains.

    Raises:
        UpsrError: the run has written none, or options have no key for them.
    """
    keys = list(keys)
    if not keys:
        raise UpsrError(
            f"{folder}: its method has no options that name weights (Method.weight_keys), so these cannot be loaded"
        )
    latest = {key: f"models/net_{key.removeprefix('pretrain_network_')}_latest" for key in keys}
    files = {key: [folder / f"{stem}{suffix}" for suffix in (".safetensors", ".pth")] for key, stem in latest.items()}
    found = {key: next(filter(Path.is_file, candidates), None) for key, candidates in files.items()}
    here = {key: path for key, path in found.items() if path is not None}
    if not here:
        raise UpsrError(
            f"{folder}: this run has no {latest[keys[0]]}.safetensors yet; it comes with the first checkpoint"
        )
    return here


def files_of(path: Path) -> list[Path]:
    """The files that weights are in: ncnn's layers (.param) have theirs in a .bin."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".param" else [path]


def weight_files(opt: CommonOptions) -> dict[str, Path]:
    """The weight files that options name and the method needs, by key; a network from elsewhere names its own."""
    found = method_of(opt)
    idle = set(found.method.weight_keys.values()) - set(found.method.needed_weights(opt).values())
    return {
        key: path
        for key, path in named_weights(opt.model_dump(), found).items()
        if key.removeprefix("path.") not in idle
    }


def unset_weights(opt: CommonOptions) -> list[str]:
    """Keys of the weight files that the method needs and the options do not name."""
    named, method = weight_files(opt), method_of(opt).method
    of_files = [
        f"path.{key}"
        for key in method.needed_weights(opt).values()
        if not {f"path.{key}", f"{key.removeprefix('pretrain_')}.path"} & named.keys()  # a network may name its own
    ]
    return of_files + [key for key in dict.fromkeys(method.folder_keys.values()) if getattr(opt, key) is None]


def named_weights(data: Mapping[str, Any], found: Found) -> dict[str, Path]:
    """As :func:`weight_files`, of options that may have mistakes.

    Args:
        data: the options.
        found: the method they name.
    """
    paths = section(data, "path")
    named = {
        f"path.{key}": find_weights(paths[key], part)
        for part, key in found.method.weight_keys.items()
        if isinstance(paths.get(key), str)
    }
    for key, kind, raw in components_in(found.options, data):
        if kind.registry == "arch" and isinstance(raw.get("path"), str):
            file, *more = files_of(Path(raw["path"]))
            named |= {f"{key}.path": file, **{f"{key}.path ({other.suffix})": other for other in more}}
    for key in dict.fromkeys(found.method.folder_keys.values()):
        if isinstance(data.get(key), str):
            first, *others = folder_files(data[key])
            named |= {key: first, **{f"{key} ({other.parent.name}/{other.name})": other for other in others}}
    return named


def section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section, empty where the options have something else in its place, which their structure refuses."""
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}
