"""Entries of an evaluation: methods from option files or checkpoints, and folders of finished images."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from upsr.archs import ncnn
from upsr.archs.spandrel import SpandrelSR
from upsr.choices import NOISE, RUNS_ROOT, NoiseSource
from upsr.compat import ENTRY_REGISTRY
from upsr.config.components import build, component_problems
from upsr.config.load import RUN_OPTIONS, read_yaml, refuse
from upsr.config.methods import method_of
from upsr.config.problems import problems_of
from upsr.config.schema import Component, Section, TileOptions
from upsr.data.backends import without_suffix
from upsr.data.datasets import ImageFolder, partner_name
from upsr.data.image_io import UnreadableImageError, to_tensor
from upsr.engine.setup import checked_model_options
from upsr.errors import MissingPackageError, UpsrError
from upsr.evaluation.catalogue import Catalogue
from upsr.homes import option_file
from upsr.methods import build_method
from upsr.methods.base import Method, Watch
from upsr.methods.bicubic.method import Bicubic
from upsr.methods.sr.method import SR
from upsr.provenance import digest_of, file_digest
from upsr.restoring import ModelRestorer, Restorer
from upsr.weights import files_of, run_weights, unset_weights, weight_files
from upsr.weights.catalogue import fetch_hint

_CHECKPOINTS = (".pth", ".pt", ".safetensors", ".ckpt", ".state", ncnn.SUFFIX)
_IN_PACKAGE = "package:"
_RUNS = Path(RUNS_ROOT)


class MissingWeightsError(UpsrError):
    """The files of an entry are not here. The others can be evaluated."""


class WrongWeightsError(UpsrError):
    """The files of an entry are not what its name promises. No number of it may be shown."""


class EntryComponent(Component):
    """A way to get restored images."""

    registry = "entry"


class ExpectedNetwork(Section):
    """Known facts of a method's networks. Absent values are not known here, and not checked."""

    architecture: str | None = Field(None, description="spandrel's name of it.")
    parameters: int | None = Field(None, description="Of the network that restores, the first of the method's parts.")
    aux_parameters: int | None = Field(None, description="Of all other parts, such as g or an autoencoder.")
    sha256: list[str] = Field(default_factory=list, description="Of each weight file, in order.")


class EntryDescription(Section):
    """A file ``options/methods/NAME.yml``."""

    name: str = Field(min_length=1, pattern=r"^[^/\\:]+$", description="By default the name of the file.")
    about: str = ""
    get: list[str] = Field(default_factory=list, description="Where to get the weights.")
    licence: str = ""
    make: EntryComponent = Field(description="Registered method and its arguments.")
    expected: ExpectedNetwork = ExpectedNetwork()


ENTRIES = Catalogue("method", "options/methods", EntryDescription)


@dataclass(frozen=True)
class Entry:
    """One that is compared in an evaluation, ready to restore.

    Attributes:
        restorer: for a seed and the name and keys of a dataset. Raises MissingWeightsError where there are no images of it.
        scale: ``None`` for any.
        channels: of the images that it takes; ``None`` for any.
        draws: the result depends on the seed.
        weights: files it was made from.
        facts: architecture, parameters, options.
        reads: for the name and keys of a dataset, sha256 of the file that each image's result is read from, by key; empty where
            results are computed. Raises MissingWeightsError as ``restorer`` does.
        has_maps: the restorer shows maps.
    """

    restorer: Callable[[int, str, Sequence[str]], Restorer]
    scale: float | None
    channels: int | None
    draws: bool
    weights: list[Path] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    reads: Callable[[str, Sequence[str]], Mapping[str, str]] = lambda dataset, keys: {}
    has_maps: bool = False

    def misfit(self, name: str, scale: int, channels: int) -> str | None:
        """The reason why it cannot restore the images of the dataset ``name``; ``None`` if it can."""
        if self.scale not in (None, scale):
            return f"x{self.scale:g}, but {name} is x{scale}"
        if self.channels not in (None, channels):
            return (
                f"it takes images of {self.channels} channel(s), but those of {name} have {channels} (its key channels)"
            )
        return None


def describe(name: str) -> EntryDescription:
    """An entry by its name in options/methods/, or that of a training run in experiments/; or by a path: of a
    description, an option file, a network's checkpoint, the folder of a training run, or a folder of finished images (with one
    folder for each dataset inside).

    Raises:
        UpsrError: there is none of these.
    """
    path = Path(name)
    if path.suffix in (".yml", ".yaml"):
        keys = read_yaml(path).keys()
        if "make" not in keys and {"method", "model_type", "base"} & keys:
            return _described(path.stem, "OptionFile", opt=name)
        return ENTRIES.read(name)
    if path.suffix in _CHECKPOINTS and not path.is_dir():
        if not path.is_file():
            raise UpsrError(f"{name}: no such checkpoint")
        return _described(path.stem, "Checkpoint", path=name)
    if name in ENTRIES.names():
        return ENTRIES.read(name)
    for folder in (path, _RUNS / path):
        if (folder / RUN_OPTIONS).is_file():
            return _of_run(folder)
    if path.is_dir():
        return _described(path.resolve().name, "FinishedImages", folder=name)
    return ENTRIES.read(name)


def _described(name: str, kind: str, **arguments: Any) -> EntryDescription:
    """A description without a file of its own."""
    data = {"name": name, "make": {"type": kind, **arguments}}
    refuse(f"--methods {name}", list(problems_of(EntryDescription, data)))
    return EntryDescription.model_validate(data)


def _of_run(folder: Path) -> EntryDescription:
    """The newest weights of a training run."""
    opt = checked_model_options(str(folder / RUN_OPTIONS))
    found = run_weights(folder, method_of(opt).method.weight_keys.values())
    own = [f"path.{key}={json.dumps(str(path), ensure_ascii=False)}" for key, path in found.items()]
    # Keys inside files are those of the weights that the run began with.
    inside = [key.replace("pretrain_network", "param_key") for key in found]
    own += [f"path.{key}=null" for key in inside if hasattr(opt.path, key)]
    return _described(folder.resolve().name, "OptionFile", opt=str(folder / RUN_OPTIONS), force_yml=own)


def make_ready(description: EntryDescription, device: torch.device, tile: TileOptions | None) -> Entry:
    """The entry that is described, with its weights, on a device.

    Raises:
        MissingWeightsError: files are not here; the message says where to get them.
        WrongWeightsError: they are not what the description says.
        UpsrError: the description has mistakes.
    """
    refuse(description.name, list(component_problems(ENTRY_REGISTRY, description.make, "make")))
    try:
        entry: Entry = build(ENTRY_REGISTRY, description.make)(device, tile)
    except MissingWeightsError as error:
        where = f"; get them from {description.get[0]}" if description.get else ""
        raise MissingWeightsError(f"{error}{where}") from None
    _compare(description, entry)
    return entry


def origin(description: EntryDescription, entry: Entry) -> dict[str, Any]:
    """Description, weight files and facts of an entry, for result files."""
    return {
        "make": description.make.model_dump(),
        "weights": [{"file": str(path), "sha256": file_digest(path)} for path in entry.weights],
        **entry.facts,
    }


@ENTRY_REGISTRY.register()
class OptionFile:
    """A method from an option file.

    Args:
        opt: option file that names the method and its weights; its datasets are not read.
        force_yml: overrides, as on the command line.
    """

    def __init__(self, opt: str, force_yml: list[str] | None = None) -> None:
        self.opt = opt
        self.force_yml = force_yml or []

    def __call__(self, device: torch.device, tile: TileOptions | None) -> Entry:
        """See :func:`make_ready`."""
        opt = checked_model_options(option_file(self.opt), self.force_yml)
        files = weight_files(opt)
        unset = unset_weights(opt)
        if not opt.path.allow_random_weights:
            absent = [f"{key}: not set" for key in unset]
            absent += [f"{key}: {path}" for key, path in files.items() if not path.is_file()]
            if absent:
                hint = (
                    "; a training run is evaluated by its folder or its name"
                    if any("not set" in a for a in absent)
                    else ""
                )
                raise MissingWeightsError(
                    f"weights are not here ({', '.join(absent)}){hint}{fetch_hint([*files.values()])}"
                )
        try:
            method = build_method(opt)
        except MissingPackageError as error:
            raise MissingWeightsError(str(error)) from None
        except UpsrError as error:
            raise WrongWeightsError(str(error)) from None
        options = opt.model_dump(mode="json", exclude={"datasets", "train", "logger", "distributed", "val"})
        facts: dict[str, Any] = {"seed_of_random_weights": opt.manual_seed} if unset else {}
        facts |= {"option_file": self.opt, "options_sha256": digest_of(options), "random_weights": bool(unset)}
        return of_model(
            method, device, tile or opt.val.tile, noise=opt.val.noise, weights=list(files.values()), facts=facts
        )


@ENTRY_REGISTRY.register()
class Checkpoint:
    """A network that spandrel recognises from its checkpoint: ESRGAN, SwinIR, DAT, ...

    Args:
        path: the checkpoint, see :class:`upsr.archs.SpandrelSR`; of several the first that is here. ``package:NAME/FILE`` is a
            file inside an installed package.
    """

    def __init__(self, path: str | list[str]) -> None:
        self.paths = [path] if isinstance(path, str) else path

    def __call__(self, device: torch.device, tile: TileOptions | None) -> Entry:
        """See :func:`make_ready`."""
        path = next((found for name in self.paths if (found := _located(name)) and found.is_file()), None)
        if path is None:
            raise MissingWeightsError(f"weights are not here ({', '.join(self.paths)}){fetch_hint(self.paths)}")
        try:
            network = SpandrelSR(str(path))
        except UpsrError as error:
            raise WrongWeightsError(str(error)) from None
        method = SR(network)
        return of_model(method, device, tile, weights=files_of(path), facts={"architecture": network.architecture})


@ENTRY_REGISTRY.register()
class BicubicUpsampling:
    """Bicubic interpolation, as a baseline.

    Args:
        scale: upscaling factor.
    """

    def __init__(self, scale: int = 4) -> None:
        self.scale = scale

    def __call__(self, device: torch.device, tile: TileOptions | None) -> Entry:
        """See :func:`make_ready`."""
        return dataclasses.replace(of_model(Bicubic(self.scale), device, None), channels=None)


@ENTRY_REGISTRY.register()
class FinishedImages:
    """Images that were restored elsewhere, to be measured like the rest.

    Args:
        folder: holds them, in one folder for each dataset, or as they are.
        filename_tmpl: name of a finished image for the name ``{}`` of the LR image, both without suffix.
    """

    def __init__(self, folder: str, filename_tmpl: str = "{}") -> None:
        self.folder = Path(folder)
        self.filename_tmpl = filename_tmpl

    def __call__(self, device: torch.device, tile: TileOptions | None) -> Entry:
        """See :func:`make_ready`."""
        if not self.folder.is_dir():
            raise MissingWeightsError(f"no folder of finished images at {self.folder}")
        return Entry(self._restorer, scale=None, channels=None, draws=False, reads=self._digests)

    def _restorer(self, seed: int, dataset: str, keys: Sequence[str]) -> Restorer:
        images, files = self._files(dataset, keys)

        def read(lq: Tensor, names: Sequence[str], watch: Watch | None = None) -> Tensor:
            images.channels = lq.shape[1]  # grey sets are compared in grey
            found = [to_tensor(images.image(files[name])) for name in names]
            if any(image.shape != found[0].shape for image in found):
                raise UnreadableImageError(f"{images.root}: images of several sizes for LR images of one")
            return torch.stack(found).to(lq.device)

        return read

    def _digests(self, dataset: str, keys: Sequence[str]) -> dict[str, str]:
        images, files = self._files(dataset, keys)
        digests = {}
        for key, file in files.items():
            with contextlib.suppress(UnreadableImageError):  # reported when it is measured
                digests[key] = images.digest(file)
        return digests

    def _files(self, dataset: str, keys: Sequence[str]) -> tuple[ImageFolder, dict[str, str]]:
        """The folder, and the finished image of each key."""
        own = self.folder / dataset
        try:
            images = ImageFolder(str(own if own.is_dir() else self.folder), channels=3)
        except UpsrError as error:
            raise MissingWeightsError(str(error)) from None
        by_name: dict[str, list[str]] = defaultdict(list)
        for file in images.keys:
            by_name[without_suffix(file)].append(file)
        found = {key: by_name.get(self._name(key), []) for key in keys}
        absent = [key for key, files in found.items() if not files]
        if absent:
            raise MissingWeightsError(
                f"{images.root}: {len(absent)} of {len(keys)} images are not there, '{self._name(absent[0])}' for one"
            )
        for key, files in found.items():
            if len(files) > 1:
                raise MissingWeightsError(
                    f"{images.root}: '{self._name(key)}' is there {len(files)} times ({', '.join(files)}); keep one of them"
                )
        return images, {key: file for key, (file,) in found.items()}

    def _name(self, key: str) -> str:
        return partner_name(key, self.filename_tmpl)


def of_model(
    method: Method,
    device: torch.device,
    tile: TileOptions | None,
    *,
    noise: NoiseSource = NOISE,
    weights: Sequence[Path] = (),
    facts: Mapping[str, Any] | None = None,
) -> Entry:
    """The entry of a method; larger images than ``tile`` are restored in tiles."""
    method = method.to(device).eval()
    own, *others = [sum(p.numel() for p in network.parameters()) for network in method.parts().values()] or [0]
    described = {
        **(facts or {}),
        # Without it results of earlier versions, which knew no other noise, and teachers of unfinished caches stay what they are.
        **({"noise": noise} if method.facts.draws and noise != "sequential" else {}),
        "parameters": own,
        "aux_parameters": sum(others),
        "tile": tile.model_dump() if tile else None,
    }
    return Entry(
        lambda seed, dataset, keys: ModelRestorer(method, seed, tile, noise),
        scale=method.facts.scale,
        channels=method.facts.channels,
        draws=method.facts.draws,
        weights=list(weights),
        facts=described,
        has_maps=bool(method.maps),
    )


def _located(name: str) -> Path | None:
    """The path of a file, also inside a package. The package is not imported: ncnn's packages open a GPU then."""
    if not name.startswith(_IN_PACKAGE):
        return Path(name)
    package, _, file = name.removeprefix(_IN_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) / file if folders else None


def _compare(description: EntryDescription, entry: Entry) -> None:
    """Refuse files that are not what the description says."""
    expected = description.expected
    for key in ("architecture", "parameters", "aux_parameters"):
        want, have = getattr(expected, key), entry.facts.get(key)
        if want is not None and want != have:
            raise WrongWeightsError(f"{key.replace('_', ' ')}: {have}, but {description.name} has {want}")
    for path, want in zip(entry.weights, expected.sha256, strict=False):
        have = file_digest(path)
        if have != want:
            raise WrongWeightsError(f"{path}: sha256 {have[:16]}..., but {description.name} has {want[:16]}...")
