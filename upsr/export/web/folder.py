"""The folder of ``upsr export --web``: page, networks, runtime and licences, and a manifest of them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from upsr.atomic import atomic_folder
from upsr.errors import UpsrError
from upsr.export.export import RECORD, ExportedFile, exported_of, network_record, write
from upsr.export.formats import require_onnx
from upsr.export.trace import Sizes, Traced, trace
from upsr.export.web.compact import Storage, store_weights
from upsr.export.web.licences import write_licences
from upsr.export.web.runtime import PACKAGE, VERSION, runtime_files
from upsr.methods.base import Method
from upsr.methods.graphs import Graph
from upsr.provenance import file_digest, versions, without_folders
from upsr.weights.fetch import Network

MANIFEST, SERVICE_WORKER = "manifest.json", "service-worker.js"
MAX_PIXELS = 1_000_000
"""Of a photo: the page holds four arrays of the result's size in float32, 0.8 GB in all, beside what the networks need."""
TILE = {"size": 128, "overlap": 24}
"""Tiles of the command, but of half the side: a tab has less memory than a program."""

_PAGE = Path(__file__).with_name("page")
_PACKED = ".packed"
"""Ending of what is compressed with gzip. Of ``.gz`` some servers say that the browser is to unpack it, and others not."""
_STORAGES: Mapping[str, Sequence[Storage]] = {"g": ["float16"], "denoiser": ["int8", "float16"]}
"""Types of the networks' weights, the first that is close enough. (The noise's weight depends on g.)"""
_LEVEL = 2 / 255
"""Largest difference of a value from torch that passes: a grey level of the denoiser's image in [-1, 1].

Of UPSR-tiny's with int8 weights it is half of one, for random inputs.
"""
_NEEDS = {"scale", "size_multiple", "etas", "kappa", "noise_power", "data_variance", "psi_max", "b_u", "timesteps", "sampler",
          "sr_condition", "estimate", "g_share"}  # fmt: skip
"""Numbers that ``page/restore.js`` computes with."""
_CHUNK = 4
"""Sides are multiples of it: torch draws normal numbers otherwise where their count is not a multiple of 16."""


@dataclass(frozen=True)
class WebFolder:
    """What was written: the networks' files, and the bytes of the whole folder."""

    networks: list[ExportedFile]
    size: int


def export_web(
    method: Method,
    folder: str | Path,
    *,
    runtime: Path | None = None,
    check: bool = True,
    source: str = "",
    network: Network | None = None,
) -> WebFolder:
    """Write a folder that a file server makes a page of, which upscales photos in the visitor's browser.

    Args:
        method: on the CPU, in evaluation mode.
        folder: is made; may be there if it is empty.
        runtime: the npm package of ONNX Runtime Web, a ``.tgz`` file or a folder; by default it is fetched.
        check: run the networks with their stored weights and compare them with torch.
        source: origin of the weights, for messages; the page and the record do not have its folders if it is an absolute path.
        network: how the package is fetched.

    Raises:
        UpsrError: as :func:`upsr.export.export.export_model`; or the runtime cannot be had, or the method restores in another way
            than the page. Nothing is left then.
    """
    exported = exported_of(method, source)
    if lacking := sorted(_NEEDS - exported.restoring.keys()):
        raise UpsrError(f"--web: the page restores as the method upsr does, and {source} does not: no {lacking[0]}")
    if {graph.name for graph in exported.graphs} != _STORAGES.keys():
        raise UpsrError(f"--web: the page runs the networks {' and '.join(_STORAGES)}; {source} has others")
    if method.facts.multiple % _CHUNK or method.facts.channels != 3:
        raise UpsrError(f"--web: takes networks for colours whose sides are multiples of {_CHUNK}; {source} is another")
    require_onnx(True, "--web")  # onnxruntime without a check, too: its licence is part of the folder
    sizes = Sizes(method.facts.multiple)
    networks: dict[str, tuple[Graph, list[ExportedFile]]] = {}
    storages: dict[str, Storage] = {}
    with atomic_folder(folder) as unfinished:
        for name, content in runtime_files(runtime, network).items():
            (unfinished / name).write_bytes(content)
        for graph in exported.graphs:
            storages[graph.name], file = _write_network(trace(graph, sizes), unfinished, sizes, check)
            networks[graph.name] = graph, [file]
        for path in [path for path in unfinished.iterdir() if path.suffix in (".onnx", ".wasm")]:
            _pack(path)
        record = {
            "source": without_folders(source),
            "versions": {**versions("onnx", "onnxscript", "onnxruntime"), PACKAGE: VERSION},
            "tolerance": _LEVEL,
            "restoring": exported.restoring,
            "networks": {name: network_record(*found) for name, found in networks.items()},
            "web": {
                "packed": _PACKED,
                "storage": storages,
                "tile": TILE,
                "max_pixels": MAX_PIXELS,
                "default_steps": len(exported.restoring["timesteps"]),
                "steps": _timesteps(method),
            },
        }
        (unfinished / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_licences(unfinished / "licences", source)
        _write_page(unfinished)
        size = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
    return WebFolder([file for _, files in networks.values() for file in files], size)


def _write_network(traced: Traced, folder: Path, sizes: Sizes, check: bool) -> tuple[Storage, ExportedFile]:
    *smaller, last = _STORAGES[traced.graph.name]
    for storage in smaller:
        with contextlib.suppress(UpsrError):
            return storage, write(traced, "onnx", folder, sizes, check, partial(store_weights, storage=storage), _LEVEL)
    return last, write(traced, "onnx", folder, sizes, check, partial(store_weights, storage=last), _LEVEL)


def _timesteps(method: Method) -> dict[int, list[int]]:
    """Timesteps that the denoiser is called at, by the number of steps; one entry of a method without that knob."""
    knob: Any = method.knobs().get("steps")
    forms = [method] if knob is None else [method.adjusted(steps=n) for n in range(int(knob.low), int(knob.high) + 1)]
    found = [list(exported.restoring["timesteps"]) for form in forms if (exported := form.exported()) is not None]
    return {len(timesteps): timesteps for timesteps in found}


def _pack(path: Path) -> None:
    packed = gzip.compress(path.read_bytes(), 9, mtime=0)
    path.with_name(path.name + _PACKED).write_bytes(packed)
    path.unlink()


def _write_page(folder: Path) -> None:
    """The page's own files, and the manifest of all that a browser keeps."""
    for path in _PAGE.iterdir():
        if path.name != SERVICE_WORKER:
            shutil.copyfile(path, folder / path.name)
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = json.dumps({"files": files}, indent=1) + "\n"
    (folder / MANIFEST).write_text(manifest, encoding="utf-8")
    # Browsers look for a new version in this file's bytes alone.
    code = (_PAGE / SERVICE_WORKER).read_text(encoding="utf-8")
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    (folder / SERVICE_WORKER).write_text(code.replace("__VERSION__", digest), encoding="utf-8")
