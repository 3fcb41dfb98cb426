"""What a pipeline is loaded from and saved to."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import upsr
from upsr.archs import SpandrelSR, ncnn
from upsr.archs.weights import read_weight_file, select_weights
from upsr.atomic import atomic_write
from upsr.compat import REGISTRIES
from upsr.config.components import all_component_problems
from upsr.config.load import RUN_OPTIONS, parse_options, read_options, refuse
from upsr.config.methods import Found, UnknownMethodError, find_method
from upsr.config.schema import CommonOptions
from upsr.errors import UpsrError
from upsr.methods.base import Method
from upsr.methods.build import assumed_options, build_method
from upsr.weights import run_weights, shipped_folder, shipped_names

CONFIG = "config.json"

Loaded = tuple[Method, dict[str, Any]]
"""A method for restoring, and the config that describes it."""


def load_model(source: str | Path, g: str | Path | None = None, *, hub: dict[str, Any] | None = None) -> Loaded:
    """The method in whatever holds one, see :meth:`upsr.pipeline.pipeline.UPSRPipeline.from_pretrained`."""
    path = shipped_folder(str(source)) if str(source) in shipped_names() else Path(source)
    if path.is_file() and path.suffix not in (".yml", ".yaml"):
        return _of_weight_file(path, g)
    if g is not None:
        raise UpsrError(
            f"--g, g=: {g} would not be read, as {source} names its own g; it goes with a file of the denoiser"
        )
    if path.is_dir():
        return _of_folder(path)
    if path.suffix in (".yml", ".yaml"):
        return _of_options(read_options(path), path, {})
    return _of_folder(_from_hub(str(source), hub or {}))


def save_model(method: Method, config: dict[str, Any], folder: Path) -> None:
    """Write config and weights: each network's in its own safetensors file.

    Raises:
        UpsrError: options could not name the weights of a network, so it could not be loaded.
    """
    if unnamed := method.parts().keys() - method.weight_keys.keys():
        raise UpsrError(
            f"{folder}: {type(method).__name__}.weight_keys has no option for the weights of {', '.join(unnamed)}"
        )
    config = copy.deepcopy(config)
    for part, network in method.parts().items():
        if isinstance(network, SpandrelSR):
            # Its section names the file that it is built from, which is this one from now on.
            config[_section_of(method, part)]["path"] = file_of(part)
            network = network.network
        weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        with atomic_write(folder / file_of(part)) as path:
            save_file({name: value.clone() for name, value in weights.items()}, path, metadata={"format": "pt"})
    # The config is last: a folder with one is whole.
    with atomic_write(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def file_of(part: str) -> str:
    """The name of a part's weight file in a saved pipeline."""
    return f"{part}.safetensors"


def _section_of(method: Method | type[Method], part: str) -> str:
    """The section of the options that describes a part."""
    return method.weight_keys[part].removeprefix("pretrain_")


def config_of(opt: CommonOptions) -> dict[str, Any]:
    """What a pipeline's config says: the sections that describe the model, defaults included, and no path."""
    sections = opt.model_dump(mode="json")
    return _config({key: sections[key] for key in opt.of_method() if key in sections})


def _config(sections: dict[str, Any]) -> dict[str, Any]:
    return {"_class_name": "UPSRPipeline", "_upsr_version": upsr.__version__, **sections}


def _of_folder(folder: Path) -> Loaded:
    if (folder / CONFIG).is_file():
        return _of_saved(folder)
    if (folder / RUN_OPTIONS).is_file():
        data = read_options(folder / RUN_OPTIONS)
        keys = _found(data, folder / RUN_OPTIONS).method.weight_keys.values()
        return _of_run(folder, run_weights(folder, keys))
    raise UpsrError(
        f"{folder}: neither a saved pipeline ({CONFIG}) nor the folder of a training run ({RUN_OPTIONS}); "
        "name one of them, an option file, or a weight file"
    )


def _of_saved(folder: Path) -> Loaded:
    source = folder / CONFIG
    data = _read_config(source)
    paths = {}
    method = _found(data, source).method
    for part, key in method.weight_keys.items():
        section = data.get(_section_of(method, part))
        if isinstance(section, dict) and section.get("path") == file_of(part):
            section["path"] = str(folder / file_of(part))
        else:
            paths[key] = str(folder / file_of(part))
    return _of_options(data, source, paths)


def _found(data: dict[str, Any], source: Path) -> Found:
    try:
        return find_method(data)
    except UnknownMethodError as error:
        raise UpsrError(f"{source}: {error.key}: {error}") from None


def _of_run(folder: Path, weights: dict[str, Path]) -> Loaded:
    options = folder / RUN_OPTIONS
    return _of_options(read_options(options), options, {key: str(path) for key, path in weights.items()})


def _of_weight_file(path: Path, g: str | Path | None) -> Loaded:
    """A weight file alone says little about its network: it is found by where the file lies and by the names inside."""
    run = path.absolute().parent.parent
    if path.absolute().parent.name == "models" and (run / RUN_OPTIONS).is_file():
        if g is not None:
            raise UpsrError(f"--g, g=: {g} would not be read, as {run / RUN_OPTIONS} names the g of {path}")
        return _of_run(run, {"pretrain_network_g": path})
    tensors = [] if path.suffix == ncnn.SUFFIX else list(select_weights(read_weight_file(path), None, path)[1])
    data = assumed_options(path, tensors, None if g is None else Path(g))
    if data is None:
        return _of_spandrel(path)
    try:
        return _of_options(data, path, data["path"])
    except UpsrError as error:
        raise UpsrError(
            f"{error} (nothing in a weight file says what network it is of, so the authors' x4 networks were assumed; for one of "
            "your own name the folder of its run, its saved pipeline or its option file)"
        ) from None


def _of_spandrel(path: Path) -> Loaded:
    try:
        scale = SpandrelSR(str(path)).scale
    except UpsrError as error:
        raise UpsrError(
            f"{error}; --weights takes the authors' files, networks that spandrel knows, and for one of your own the folder of "
            "its run, its saved pipeline or its option file"
        ) from None
    network = {"type": SpandrelSR.__name__, "path": str(path.absolute())}
    return _of_options({"method": "sr", "scale": scale, "network_g": network}, path, {})


def _of_options(data: dict[str, Any], source: Path, paths: dict[str, str]) -> Loaded:
    schema = _found(data, source).options
    kept = {key: data[key] for key in schema.of_method() if key in data}
    # Weights that were named by the run's options stay named, and those of this source go before them; the keys inside
    # files go with the files.
    keys = {f"param_key_{path.removeprefix('pretrain_network_')}" for path in paths}
    named = {
        key: value
        for key, value in (data.get("path") or {}).items()
        if key.startswith(("pretrain_", "param_key")) and key not in keys
    }
    described = {**kept, "name": "pipeline", "datasets": {}, "path": {**named, **paths}}
    opt = parse_options(described, str(source))
    refuse(str(source), list(all_component_problems(REGISTRIES, schema, described)))
    return build_method(opt).eval(), config_of(opt)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UpsrError(f"{path}: not a readable config ({error})") from None
    if not isinstance(data, dict) or data.get("_class_name") != "UPSRPipeline":
        raise UpsrError(f"{path}: this is no config of a UPSRPipeline")
    return data


def _from_hub(name: str, hub: dict[str, Any]) -> Path:
    """The folder of a Hugging Face repository, from its cache or the network."""
    from huggingface_hub import snapshot_download  # here: only a name that is no path needs it
    from huggingface_hub.errors import HFValidationError

    if not name.count("/") == 1 or name.startswith((".", "/", "~")) or name.endswith((".pth", ".safetensors")):
        raise UpsrError(f"{name}: no such file or folder; shipped weights: {', '.join(shipped_names())}")
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, "*.safetensors"], **hub))
    except HFValidationError as error:
        raise UpsrError(
            f"{name}: neither a file or folder nor a repository's name ({' '.join(str(error).split())})"
        ) from None
    except Exception as error:  # what is wrong with a network has many names
        reason = " ".join(str(error).split())[:200]
        raise UpsrError(f"{name}: no such folder here, and the Hugging Face Hub did not give it ({reason})") from None
