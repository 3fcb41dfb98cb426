"""Files and folders that a pipeline is loaded from and saved to."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upsr.archs import SpandrelSR
from upsr.compat import REGISTRIES
from upsr.config.components import all_component_problems
from upsr.config.load import RUN_OPTIONS, parse_options, read_options, refuse
from upsr.config.methods import Found, UnknownMethodError, find_method
from upsr.errors import UpsrError
from upsr.methods.base import Method
from upsr.methods.build import build_method
from upsr.methods.saved import CLASS, CONFIG, config_of, file_of, write_config, write_weights
from upsr.pipeline.published import named_method, published_options
from upsr.weights import run_weights, shipped_folder, shipped_names
from upsr.weights.catalogue import FOLDER, Entry, fetch_hint, read_catalogue
from upsr.weights.hub import hub_folder, is_repository
from upsr.weights.places import model_place

COMPONENT = "restoration"
"""Folder of the saved pipeline in a folder of diffusers' layout."""
_OPTION_FILES = (".yml", ".yaml")

Loaded = tuple[Method, dict[str, Any]]
"""A method for restoring, and the config that describes it."""


@dataclass(frozen=True)
class Described:
    """Options of a method for restoring.

    Attributes:
        data: sections, as in an option file.
        source: the file that they come from, for messages.
        paths: weights that go before those that ``data`` names, by the keys of the section ``path``.
    """

    data: Mapping[str, Any]
    source: Path
    paths: Mapping[str, str]


def load_model(
    source: str | Path,
    *,
    method: str | None = None,
    parts: Mapping[str, str | Path] | None = None,
    hub: Mapping[str, Any] | None = None,
    options: Path | None = None,
) -> Loaded:
    """The method in whatever holds one, see :meth:`upsr.pipeline.pipeline.UPSRPipeline.from_pretrained`.

    Args:
        options: option file that describes the networks of a weight file.
    """
    beside = {part: Path(file) for part, file in (parts or {}).items()}
    path = _located(str(source), hub or {})
    if isinstance(path, Entry):
        beside = {part: FOLDER / file for part, file in path.parts.items()} | beside
        method, path = method or path.method, model_place(path, FOLDER)
    wanted = None if method is None else named_method(method)
    described = _of_itself(path) if options is None else _under(options, path, beside)
    if described is None:
        data = published_options(path, wanted, beside)
        try:
            return _of_options(Described(data, path, data["path"]))
        except UpsrError as error:
            raise UpsrError(
                f"{error} (nothing in weights says what network they are of, so the authors' networks were assumed; for one of "
                "your own name the folder of its run, its saved pipeline or its option file)"
            ) from None
    for part, file in beside.items() if options is None else ():
        raise UpsrError(
            f"--part {part}=: {file} would not be read, as {source} names its own weights; it goes with a weight file"
        )
    found = _found(described)
    if wanted is not None and wanted.method is not found.method:
        raise UpsrError(f"--method, method=: {source} is of the method {found.name}, not {wanted.name}")
    return _of_options(described)


def save_model(method: Method, config: dict[str, Any], folder: Path) -> None:
    """Write config and weights: each network's in its own safetensors file.

    Raises:
        UpsrError: options could not name the weights of a network, so it could not be loaded.
    """
    if unnamed := method.parts().keys() - method.weight_keys.keys() - method.folder_keys.keys():
        raise UpsrError(
            f"{folder}: {type(method).__name__}.weight_keys has no option for the weights of {', '.join(unnamed)}"
        )
    config = copy.deepcopy(config)
    for key in dict.fromkeys(method.folder_keys.values()):
        method.save_folder(key, folder / key)
        config[key] = key
    for part, network in method.parts().items():
        if part in method.folder_keys:
            continue
        if isinstance(network, SpandrelSR):
            # Its section names the file that it is built from, which is this one from now on.
            config[_section_of(method, part)]["path"] = file_of(part)
            network = network.network
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        write_weights(folder / file_of(part), weights)
    write_config(folder, config)


def _section_of(method: Method | type[Method], part: str) -> str:
    """The section of the options that describes a part."""
    return method.weight_keys[part].removeprefix("pretrain_")


def _located(name: str, hub: Mapping[str, Any]) -> Path | Entry:
    """The path of shipped weights, of a file or folder here, or of a repository's folder; an entry of the catalogue."""
    if name in shipped_names():
        return shipped_folder(name)
    if Path(name).exists() or Path(name).suffix in _OPTION_FILES:
        return Path(name)
    if (entry := read_catalogue().get(name)) is not None and entry.method is not None:
        place = model_place(entry, FOLDER)
        if not place.exists():
            then = f", then: {entry.then}" if entry.then else ""
            raise UpsrError(f"{name}: {place} is not here; upsr weights fetch {name}{then}")
        return entry
    if not is_repository(name):
        raise UpsrError(
            f"{name}: no such file or folder; shipped weights: {', '.join(shipped_names())}{fetch_hint([name])}"
        )
    return hub_folder(name, **hub)


def _of_itself(path: Path) -> Described | None:
    """The options of a source that names its method; ``None`` for published weights."""
    if path.suffix in _OPTION_FILES:
        return Described(read_options(path), path, {})
    if path.is_file():
        run = path.absolute().parent.parent
        in_run = path.absolute().parent.name == "models" and (run / RUN_OPTIONS).is_file()
        return _of_run(run, path) if in_run else None
    for folder in (path, path / COMPONENT):
        if (folder / CONFIG).is_file() and (data := _read_config(folder / CONFIG)) is not None:
            return _of_saved(folder, data)
    if (path / RUN_OPTIONS).is_file():
        return _of_run(path)
    return None


def _under(options: Path, file: Path, beside: Mapping[str, Path]) -> Described:
    """A weight file under an option file: of the first of the method's parts that no other file is named for.

    Raises:
        UpsrError: the options have no place for it.
    """
    described = Described(read_options(options), options, {})
    found = _found(described)
    keys: Mapping[str, str] = found.method.weight_keys
    own = next((part for part in keys if part not in beside), None)
    files = {**({} if own is None else {own: file}), **beside}
    for part, named in files.items():
        if own is None or part not in keys:
            raise UpsrError(f"--opt {options}: {named} would not be read by the method {found.name}: {', '.join(keys)}")
        section = described.data.get(_section_of(found.method, part))
        if isinstance(section, dict) and "path" in section:
            raise UpsrError(f"--opt {options}: {part} names a file of its own; {named} would not be read")
        if not named.is_file():
            raise UpsrError(f"{named}: --opt {options} goes with weight files, and this is none")
    return replace(described, paths={keys[part]: str(named) for part, named in files.items()})


def _of_saved(folder: Path, data: dict[str, Any]) -> Described:
    described = Described(data, folder / CONFIG, {})
    method = _found(described).method
    paths = {}
    for part, key in method.weight_keys.items():
        section = data.get(_section_of(method, part))
        if isinstance(section, dict) and section.get("path") == file_of(part):
            section["path"] = str(folder / file_of(part))
        else:
            paths[key] = str(folder / file_of(part))
    inside = {key: str(folder / key) for key in method.folder_keys.values()}
    return replace(described, data={**data, **inside}, paths=paths)


def _of_run(folder: Path, file: Path | None = None) -> Described:
    """A run with its newest weights, or with one file of them; its options name the weights that it did not train."""
    described = Described(read_options(folder / RUN_OPTIONS), folder / RUN_OPTIONS, {})
    keys = list(_found(described).method.weight_keys.values())
    if file is None:
        weights = run_weights(folder, keys)
    else:
        player = re.fullmatch(r"net_(.+)_[^_]+", file.stem)
        own = f"pretrain_network_{player[1]}" if player else ""
        weights = {own if own in keys else "pretrain_network_g": file}
    return replace(described, paths={key: str(path) for key, path in weights.items()})


def _found(described: Described) -> Found:
    try:
        return find_method(described.data)
    except UnknownMethodError as error:
        raise UpsrError(f"{described.source}: {error.key}: {error}") from None


def _of_options(described: Described) -> Loaded:
    schema = _found(described).options
    kept = {key: described.data[key] for key in schema.of_method() if key in described.data}
    # Weights that were named by the run's options stay named, and those of this source go before them; the keys inside
    # files go with the files. Where a run may have random weights, they are those of its seed.
    keys = {f"param_key_{path.removeprefix('pretrain_network_')}" for path in described.paths}
    named = {
        key: value
        for key, value in (described.data.get("path") or {}).items()
        if key.startswith(("pretrain_", "param_key", "allow_random_weights")) and key not in keys
    }
    seed = {key: described.data[key] for key in ("manual_seed",) if key in described.data}
    whole = {**kept, **seed, "name": "pipeline", "datasets": {}, "path": {**named, **described.paths}}
    opt = parse_options(whole, str(described.source))
    refuse(str(described.source), list(all_component_problems(REGISTRIES, schema, whole)))
    return build_method(opt).eval(), config_of(opt)


def _read_config(path: Path) -> dict[str, Any] | None:
    """The config of a saved pipeline; ``None`` if it is of something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UpsrError(f"{path}: not a readable config ({error})") from None
    return data if isinstance(data, dict) and data.get("_class_name") == CLASS else None
