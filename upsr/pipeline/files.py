"""What a pipeline is loaded from and saved to."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import upsr
from upsr.archs import SpandrelSR, ncnn
from upsr.archs.weights import read_weight_file, select_weights
from upsr.atomic import atomic_write
from upsr.compat import ARCH_REGISTRY
from upsr.config.components import component_problems
from upsr.config.load import parse_options, read_with_base, refuse
from upsr.config.schema import Options
from upsr.errors import UpsrError
from upsr.methods import AuxiliarySRModel, UPSRModel, build_model
from upsr.restoring.stepwise import PhotoModel
from upsr.weights import shipped_folder, shipped_names

CONFIG = "config.json"
FILES = {"denoiser": "denoiser.safetensors", "g": "g.safetensors"}
SECTIONS = ("model_type", "scale", "network_g", "network_aux", "diffusion", "uncertainty")

RELEASED: dict[str, Any] = {
    "model_type": "UPSRModel",
    "scale": 4,
    "network_g": {"type": "UNetModelSwin"},
    "network_aux": {"type": "ATD", "upscale": 4},
}
"""The authors' x4 model: the networks' defaults are its shapes."""

_OF_DENOISERS = "input_blocks.0.0.weight"
_OF_ATD = "layers.0.patch_embed.norm.weight"
"""Names of tensors by which the authors' two networks are known."""

Loaded = tuple[PhotoModel, dict[str, Any]]
"""A model for restoring, and the config that describes it."""


def load_model(source: str | Path, g: str | Path | None = None, *, hub: dict[str, Any] | None = None) -> Loaded:
    """The model in whatever holds one, see :meth:`upsr.pipeline.pipeline.UPSRPipeline.from_pretrained`."""
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
        return _of_options(read_with_base(path), path, {})
    return _of_folder(_from_hub(str(source), hub or {}))


def networks_of(model: PhotoModel) -> dict[str, nn.Module]:
    """The networks of a model: the denoiser and g, or the one that upscales by itself as g."""
    if isinstance(model, UPSRModel):
        return {"denoiser": model.network_g, "g": model.network_aux.network}
    return {"g": model.network_g}


def save_model(model: PhotoModel, config: dict[str, Any], folder: Path) -> None:
    """Write config and weights: each network's in its own safetensors file."""
    config = copy.deepcopy(config)
    for part, network in networks_of(model).items():
        if isinstance(network, SpandrelSR):
            # Its section names the file that it is built from, which is this one from now on.
            config["network_aux" if isinstance(model, UPSRModel) else "network_g"]["path"] = FILES[part]
            network = network.network
        weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        with atomic_write(folder / FILES[part]) as path:
            save_file({name: value.clone() for name, value in weights.items()}, path, metadata={"format": "pt"})
    # The config is last: a folder with one is whole.
    with atomic_write(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def config_of(opt: Options) -> dict[str, Any]:
    """What a pipeline's config says: the sections that describe the model, defaults included, and no path."""
    return _config({key: opt.model_dump(mode="json", include=set(SECTIONS))[key] for key in SECTIONS})


def _config(sections: dict[str, Any]) -> dict[str, Any]:
    return {"_class_name": "UPSRPipeline", "_upsr_version": upsr.__version__, **sections}


def _of_folder(folder: Path) -> Loaded:
    if (folder / CONFIG).is_file():
        return _of_saved(folder)
    if (folder / "options.yml").is_file():
        return _of_run(folder, _latest(folder))
    raise UpsrError(
        f"{folder}: neither a saved pipeline ({CONFIG}) nor the folder of a training run (options.yml); "
        "name one of them, an option file, or a weight file"
    )


def _of_saved(folder: Path) -> Loaded:
    data = _read_config(folder / CONFIG)
    for section in (data.get("network_g"), data.get("network_aux")):
        if isinstance(section, dict) and section.get("path") in FILES.values():
            section["path"] = str(folder / section["path"])
    if data.get("model_type") == "AuxiliarySRModel":
        if isinstance(data.get("network_g"), dict) and data["network_g"].get("type") == SpandrelSR.__name__:
            return _of_spandrel(Path(data["network_g"]["path"]))
        return _of_options(data, folder / CONFIG, {"pretrain_network_g": str(folder / FILES["g"])})
    paths = {f"pretrain_network_{key}": str(folder / FILES[part]) for key, part in (("g", "denoiser"), ("aux", "g"))}
    return _of_options(data, folder / CONFIG, paths)


def _of_run(folder: Path, weights: Path) -> Loaded:
    options = folder / "options.yml"
    return _of_options(read_with_base(options), options, {"pretrain_network_g": str(weights)})


def _latest(folder: Path) -> Path:
    """The last weights of a training run, in whichever format it wrote."""
    files = [folder / "models" / f"net_g_latest{suffix}" for suffix in (".safetensors", ".pth")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UpsrError(f"{folder}: this run has written no weights yet ({files[0]}); wait for its first checkpoint")
    return found


def _of_weight_file(path: Path, g: str | Path | None) -> Loaded:
    """A weight file alone says little about its network: it is found by where the file lies and by the names inside."""
    run = path.absolute().parent.parent
    if path.absolute().parent.name == "models" and (run / "options.yml").is_file():
        if g is not None:
            raise UpsrError(f"--g, g=: {g} would not be read, as {run / 'options.yml'} names the g of {path}")
        return _of_run(run, path)
    if g is not None:
        return _of_released(path, g)
    if path.suffix == ncnn.SUFFIX:
        return _of_spandrel(path)
    names = select_weights(read_weight_file(path), None, path)[1]
    if _OF_DENOISERS in names:
        raise UpsrError(
            f"{path}: holds the denoiser alone; name the file of g too (--g, g=), for example atd_real.pth, "
            "or the folder of its run or saved pipeline"
        )
    if _OF_ATD in names:
        opt = {**RELEASED, "model_type": "AuxiliarySRModel", "network_g": RELEASED["network_aux"], "network_aux": None}
        return _assumed(opt, path, {"pretrain_network_g": str(path)}, "g")
    return _of_spandrel(path)


def _of_released(path: Path, g: str | Path) -> Loaded:
    paths = {"pretrain_network_g": str(path), "pretrain_network_aux": str(g)}
    return _assumed(RELEASED, path, paths, "networks")


def _assumed(data: dict[str, Any], path: Path, paths: dict[str, str], what: str) -> Loaded:
    """The authors' model, which nothing in a file says that it is of."""
    try:
        return _of_options(data, path, paths)
    except UpsrError as error:
        raise UpsrError(
            f"{error} (nothing in a weight file says what network it is of, so the authors' x4 {what} were assumed; for one of "
            "your own name the folder of its run, its saved pipeline or its option file)"
        ) from None


def _of_spandrel(path: Path) -> Loaded:
    try:
        network = SpandrelSR(str(path))
    except UpsrError as error:
        raise UpsrError(
            f"{error}; --weights takes the authors' files, networks that spandrel knows, and for one of your own the folder of "
            "its run, its saved pipeline or its option file"
        ) from None
    model = AuxiliarySRModel(network, scale=network.scale, channels=network.channels)
    component = {"type": SpandrelSR.__name__, "path": str(path.absolute())}
    config = _config({"model_type": "AuxiliarySRModel", "scale": network.scale, "network_g": component})
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval(), config


def _of_options(data: dict[str, Any], source: Path, paths: dict[str, str]) -> Loaded:
    kept = {key: data[key] for key in SECTIONS if key in data}
    # Weights that were named by the run's options stay named, and those of this source go before them; the keys inside
    # files go with the files.
    keys = {f"param_key_{path.removeprefix('pretrain_network_')}" for path in paths}
    named = {
        key: value
        for key, value in (data.get("path") or {}).items()
        if key.startswith(("pretrain_", "param_key")) and key not in keys
    }
    opt = parse_options({**kept, "name": "pipeline", "datasets": {}, "path": {**named, **paths}}, str(source))
    problems = list(component_problems(ARCH_REGISTRY, opt.network_g, "network_g"))
    if opt.network_aux is not None:
        problems += component_problems(ARCH_REGISTRY, opt.network_aux, "network_aux")
    refuse(str(source), problems)
    model = build_model(opt, "test")
    if not isinstance(model, (UPSRModel, AuxiliarySRModel)):
        raise UpsrError(f"{source}: model_type {opt.model_type} is none that photos can be upscaled with")
    return model.eval(), config_of(opt)


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
        return Path(snapshot_download(name, allow_patterns=[CONFIG, *FILES.values()], **hub))
    except HFValidationError as error:
        raise UpsrError(
            f"{name}: neither a file or folder nor a repository's name ({' '.join(str(error).split())})"
        ) from None
    except Exception as error:  # what is wrong with a network has many names
        reason = " ".join(str(error).split())[:200]
        raise UpsrError(f"{name}: no such folder here, and the Hugging Face Hub did not give it ({reason})") from None
