"""What a pipeline is loaded from and saved to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import upsr
from upsr.atomic import atomic_write
from upsr.compat import ARCH_REGISTRY
from upsr.config.components import component_problems
from upsr.config.load import parse_options, read_with_base, refuse
from upsr.config.schema import Options
from upsr.errors import UpsrError
from upsr.models import UPSRModel, build_model
from upsr.weights import shipped_folder, shipped_names

CONFIG = "config.json"
FILES = {"pretrain_network_g": "denoiser.safetensors", "pretrain_network_aux": "g.safetensors"}
SECTIONS = ("model_type", "scale", "network_g", "network_aux", "diffusion", "uncertainty")

RELEASED: dict[str, Any] = {
    "model_type": "UPSRModel",
    "scale": 4,
    "network_g": {"type": "UNetModelSwin"},
    "network_aux": {"type": "ATD", "upscale": 4},
}
"""The authors' x4 model: the networks' defaults are its shapes."""


Loaded = tuple[UPSRModel, dict[str, Any]]
"""A model for restoring, and the config that describes it."""


def load_model(source: str | Path, g: str | Path | None = None, *, hub: dict[str, Any] | None = None) -> Loaded:
    """The model in whatever holds one, see :meth:`upsr.inference.pipeline.UPSRPipeline.from_pretrained`."""
    path = shipped_folder(str(source)) if str(source) in shipped_names() else Path(source)
    if g is not None and (path.is_dir() or path.suffix in (".yml", ".yaml")):
        raise UpsrError(f"--g: {g} has no effect beside {source}, which names its own; only a weight file needs it")
    if path.is_dir():
        return _of_folder(path)
    if path.suffix in (".yml", ".yaml"):
        return _of_options(read_with_base(path), path, {})
    if path.is_file():
        return _of_weight_file(path, g)
    return _of_folder(_from_hub(str(source), hub or {}))


def save_model(model: UPSRModel, config: dict[str, Any], folder: Path) -> None:
    """Write config and weights: the denoiser's and g's, each in its own safetensors file."""
    networks = {"pretrain_network_g": model.network_g, "pretrain_network_aux": model.network_aux.network}
    for key, network in networks.items():
        weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        with atomic_write(folder / FILES[key]) as path:
            save_file({name: value.clone() for name, value in weights.items()}, path, metadata={"format": "pt"})
    # The config is last: a folder with one is whole.
    with atomic_write(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def config_of(opt: Options) -> dict[str, Any]:
    """The part of options that a saved pipeline keeps."""
    sections = opt.model_dump(mode="json", include=set(SECTIONS))
    return {
        "_class_name": "UPSRPipeline",
        "_upsr_version": upsr.__version__,
        **{key: sections[key] for key in SECTIONS},
    }


def _of_folder(folder: Path) -> Loaded:
    if (folder / CONFIG).is_file():
        paths = {key: str(folder / name) for key, name in FILES.items()}
        return _of_options(_read_config(folder / CONFIG), folder / CONFIG, paths)
    if (folder / "options.yml").is_file():
        latest = folder / "models" / "net_g_latest.safetensors"
        return _of_options(
            read_with_base(folder / "options.yml"), folder / "options.yml", {"pretrain_network_g": str(latest)}
        )
    raise UpsrError(
        f"{folder}: neither a saved pipeline ({CONFIG}) nor the folder of a training run (options.yml); "
        "name one of them, an option file, or a weight file with g beside it"
    )


def _of_weight_file(path: Path, g: str | Path | None) -> Loaded:
    if g is None:
        raise UpsrError(f"{path}: holds the denoiser alone; name the file of g too (--g, g=), for example atd_real.pth")
    return _of_options(RELEASED, path, {"pretrain_network_g": str(path), "pretrain_network_aux": str(g)})


def _of_options(data: dict[str, Any], source: Path, paths: dict[str, str]) -> Loaded:
    kept = {key: data[key] for key in SECTIONS if key in data}
    # Weights that were named by the run's options stay named, and those of this source go before them.
    named = {
        key: value for key, value in (data.get("path") or {}).items() if key.startswith(("pretrain_", "param_key"))
    }
    opt = parse_options({**kept, "name": "pipeline", "datasets": {}, "path": {**named, **paths}}, str(source))
    problems = list(component_problems(ARCH_REGISTRY, opt.network_g, "network_g"))
    if opt.network_aux is not None:
        problems += component_problems(ARCH_REGISTRY, opt.network_aux, "network_aux")
    refuse(str(source), problems)
    model = build_model(opt, "test")
    if not isinstance(model, UPSRModel):
        raise UpsrError(f"{source}: model_type {opt.model_type} has no diffusion; a pipeline needs a UPSRModel")
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
